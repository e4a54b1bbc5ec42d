"""A connection outlives a revocation, so every request is checked again."""

import json
from collections.abc import Callable

import pytest
from django.core.asgi import get_asgi_application

from certs_app import server
from certs_app.tests.conftest import Connection, Live, serving
from conftest import People


@pytest.fixture(autouse=True)
def _only_at_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server not look at its connections: it would close one before the request that is to be refused."""
    monkeypatch.setattr(server.Server, "_close_refused", lambda self, now: None)


def test_a_revoked_client_is_refused_at_its_next_request(live: Live, served: People) -> None:
    with live.connect("alice") as connection:
        assert connection.get().status == 200

        served.revoke("alice")

        assert _refusal(connection) == "certificate_revoked"


def test_django_refuses_a_revoked_client_at_its_next_request(served: People, as_role: Callable[[str], None]) -> None:
    as_role("ingest")
    served.issue("bob", "client")
    with (
        serving(get_asgi_application(), served.folder) as live,
        live.connect("alice") as alice,
        live.connect("bob") as bob,
    ):
        assert alice.get("/healthz").status == 200
        assert bob.get("/healthz").status == 200

        served.revoke("bob")

        assert _refusal(bob, "/healthz") == "certificate_revoked"
        assert alice.get("/healthz").status == 200


def _refusal(connection: Connection, path: str = "/") -> str:
    answer = connection.get(path)
    assert answer.status == 403
    return str(json.loads(answer.body)["code"])


@pytest.mark.parametrize("header", ["msgsys.peer: admin/root", "MSGSYS_PEER: admin"])
def test_a_header_never_becomes_the_caller(standing: Live, header: str) -> None:
    with standing.connect("alice") as connection:
        assert b'"client/alice"' in connection.get("/", header).body


@pytest.mark.parametrize("name", ["X-SSL-Client-Cert", "x_ssl_client_cert", "X-Ssl_Client-CERT"])
def test_the_header_of_a_terminator_is_refused_where_tls_ends_here(standing: Live, name: str) -> None:
    standing.door.reached.clear()
    with standing.connect("alice") as connection:
        answer = connection.get("/", f"{name}: -----BEGIN%20CERTIFICATE-----")

        assert (answer.status, answer.code) == (400, "header_not_allowed")
        assert connection.closed()
    assert standing.door.reached == []
