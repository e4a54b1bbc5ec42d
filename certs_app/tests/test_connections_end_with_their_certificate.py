"""An open connection ends when its certificate does, even if nothing is asked on it."""

import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.utils import timezone
from prometheus_client import REGISTRY

from certs_app import server
from certs_app.tests.conftest import Connection, Door, Live, serving
from conftest import People


def closed(reason: str) -> float:
    return REGISTRY.get_sample_value("msgsys_tls_connections_closed_total", {"reason": reason}) or 0.0


def later(monkeypatch: pytest.MonkeyPatch, **time_: float) -> None:
    """Let the server's looks at its connections happen in the future."""
    clock: Any = SimpleNamespace(now=lambda: timezone.now() + timedelta(**time_))
    monkeypatch.setattr(server, "timezone", clock)


@pytest.mark.usefixtures("every_loop")
def test_a_parked_connection_of_a_revoked_client_is_closed_within_a_second(served: People) -> None:
    served.issue("bob", "client")
    before = closed("certificate_revoked")
    with (
        serving(Door(), served.folder) as live,
        live.connect("alice") as alice,
        live.connect("bob") as bob,
        live.connect("bob") as fresh,
    ):
        assert [connection.get().status for connection in (alice, bob)] == [200, 200]

        served.revoke("bob")

        started = time.monotonic()
        assert bob.closed(within=1)
        assert fresh.closed(within=1 - (time.monotonic() - started))
        assert alice.get().status == 200
        assert closed("certificate_revoked") == before + 2


def test_an_answer_under_way_is_finished_first(live: Live, served: People) -> None:
    with live.connect("alice") as connection:
        connection.send(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n")
        time.sleep(0.3)  # let the request get to the application
        before = closed("certificate_revoked")
        served.revoke("alice")
        time.sleep(1)  # let the server look at its connections, twice

        # The application looks at the list, too, once it is done; what counts is that its answer comes.
        assert b"certificate_revoked" in connection.answer().body
        assert connection.closed(within=1)
        assert closed("certificate_revoked") == before + 1


def test_a_connection_whose_certificate_expires_is_closed(served: People, monkeypatch: pytest.MonkeyPatch) -> None:
    served.issue("erin", "client", days=1)
    before = closed("certificate_expired")
    with serving(Door(), served.folder) as live, live.connect("alice") as alice, live.connect("erin") as erin:
        assert [connection.get().status for connection in (alice, erin)] == [200, 200]

        later(monkeypatch, hours=25)

        assert erin.closed(within=1)
        assert closed("certificate_expired") == before + 1
        assert alice.get().status == 200


def test_a_list_that_is_out_of_date_closes_nobodys_connection(
    live: Live, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with live.connect("alice") as connection:
        assert connection.get().status == 200

        later(monkeypatch, hours=settings.CRL_HOURS + 1)

        assert not _closes(connection)
        assert connection.get().status == 200


def test_a_connection_without_a_certificate_is_left_alone(served: People) -> None:
    with serving(Door(), served.folder, client_certificates=False) as live, live.connect(None) as connection:
        assert connection.get().status == 403

        served.revoke("alice")

        assert not _closes(connection)
        assert connection.get().status == 403


def _closes(connection: Connection) -> bool:
    try:
        return connection.closed(within=1.2)
    finally:
        connection.tls.settimeout(10)
