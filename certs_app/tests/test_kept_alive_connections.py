"""A connection outlives a revocation, so every request is checked again."""

import json
import time
from collections.abc import Callable

import pytest
from django.core.asgi import get_asgi_application

from certs_app.tests.conftest import Connection, Live, serving, until
from conftest import People

# The list file is looked at once a second; the rest is for a busy machine.
NOTICED_WITHIN = 1.5


def test_a_revoked_client_is_refused_at_its_next_request(live: Live, served: People) -> None:
    with live.connect("alice") as connection:
        assert connection.get().status == 200

        served.revoke("alice")

        assert _code_once_refused(connection) == "certificate_revoked"


def test_django_refuses_a_revoked_client_at_its_next_request(served: People, as_role: Callable[[str], None]) -> None:
    as_role("registry")
    served.issue("bob", "client")
    with (
        serving(get_asgi_application(), served.folder) as live,
        live.connect("alice") as alice,
        live.connect("bob") as bob,
    ):
        assert alice.get("/healthz").status == 200
        assert bob.get("/healthz").status == 200

        served.revoke("bob")

        assert _code_once_refused(bob, "/healthz") == "certificate_revoked"
        assert alice.get("/healthz").status == 200


def _code_once_refused(connection: Connection, path: str = "/") -> str:
    answers = [connection.get(path)]
    started = time.monotonic()
    until(lambda: answers.append(connection.get(path)) or answers[-1].status != 200, NOTICED_WITHIN)
    assert time.monotonic() - started < NOTICED_WITHIN
    assert answers[-1].status == 403
    return str(json.loads(answers[-1].body)["code"])


@pytest.mark.parametrize("header", ["msgsys.peer: admin/root", "MSGSYS_PEER: admin", "X-SSL-Client-Cert: %2d%2d"])
def test_a_header_never_becomes_the_caller(standing: Live, header: str) -> None:
    with standing.connect("alice") as connection:
        assert b'"client/alice"' in connection.get("/", header).body
