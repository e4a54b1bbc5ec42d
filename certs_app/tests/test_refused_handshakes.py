"""A refused handshake is logged with its reason and the certificate that was shown, and counted."""

import logging
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from django.conf import settings as django_settings
from django.utils import timezone
from prometheus_client import REGISTRY

from certs_app import doorway, refusals, revocation
from certs_app.revocation import pem_blocks
from certs_app.revocation_lists import publish
from certs_app.tests.conftest import Door, Live, serving, until
from certs_app.tests.strangers import serial_number, strangers
from conftest import People


def counted(reason: str) -> float:
    value = REGISTRY.get_sample_value("msgsys_tls_handshakes_refused_total", {"reason": reason})
    assert value is not None, f"{reason} has no label of its own from the start"
    return value


def lines(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.getMessage() == "a handshake was refused"]


@contextmanager
def refused(caplog: pytest.LogCaptureFixture, reason: str, shown: str = "") -> Iterator[None]:
    """Expect one refusal, in the log and in the metric."""
    caplog.clear()
    before = counted(reason)
    yield
    until(lambda: lines(caplog))
    (line,) = lines(caplog)
    assert (line.reason, line.serial_number, line.address) == (reason, shown, "127.0.0.1")
    assert line.levelno == logging.WARNING
    assert counted(reason) == before + 1


STRANGERS = {
    "bob": "revoked",
    "carol": "untrusted",
    "dave": "not_yet_valid",
    "erin": "expired",
    "frank": "wrong_purpose",
}


@pytest.mark.usefixtures("every_loop")
def test_every_stranger_is_refused_logged_and_counted(served: People, caplog: pytest.LogCaptureFixture) -> None:
    strangers(served)
    with serving(Door(), served.folder) as live:
        for name, reason in STRANGERS.items():
            with refused(caplog, reason, serial_number(served, name)):
                assert live.refuses(name), name
        with refused(caplog, "no_certificate"):
            assert live.refuses(None)
        assert live.get("alice").status == 200


def test_curl_and_openssl_are_refused_for_the_same_reasons(served: People, caplog: pytest.LogCaptureFixture) -> None:
    strangers(served)
    with serving(Door(), served.folder) as live:
        for name, reason in STRANGERS.items():
            with refused(caplog, reason, serial_number(served, name)):
                assert live.curl(name).returncode != 0
            with refused(caplog, reason, serial_number(served, name)):
                assert "HTTP/1.1 200" not in s_client(live, name)
        assert "HTTP/1.1 200" in s_client(live, "alice")


def s_client(live: Live, stem: str, *options: str) -> str:
    pair = ["-cert", str(live.folder / f"{stem}.crt"), "-key", str(live.folder / f"{stem}.key")]
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{live.port}", *pair, "-ign_eof", *options]
    request = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    done = subprocess.run(command, input=request, capture_output=True, encoding="utf-8", errors="replace", timeout=20)
    return done.stdout


@pytest.mark.usefixtures("every_loop")
def test_older_tls_is_refused_logged_and_counted(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    for option in ("-tls1_2", "-tls1_1", "-tls1"):
        with refused(caplog, "tls_version"):
            assert "HTTP/1.1 200" not in s_client(live, "alice", option, "-cipher", "ALL:@SECLEVEL=0")


def test_what_is_not_tls_is_refused_logged_and_counted(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    with refused(caplog, "other"), live.raw() as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        with suppress(OSError):
            assert plain.recv(100) == b""


# --- revocation lists -----------------------------------------------------------------------------------------------

Damage = Callable[[People], None]


def expired(people: People) -> None:
    publish(timezone.now() - timedelta(hours=django_settings.CRL_HOURS, minutes=1))


def not_yet_valid(people: People) -> None:
    publish(timezone.now() + timedelta(days=1))


def missing(people: People) -> None:
    _replace_list_of_clients(people, lambda genuine: b"")


def forged(people: People) -> None:
    def forge(genuine: x509.CertificateRevocationList) -> bytes:
        builder = x509.CertificateRevocationListBuilder(extensions=list(genuine.extensions))
        dates = builder.last_update(timezone.now() - timedelta(hours=1)).next_update(timezone.now() + timedelta(days=1))
        signed = dates.issuer_name(genuine.issuer).sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        return signed.public_bytes(Encoding.PEM)

    _replace_list_of_clients(people, forge)


def _replace_list_of_clients(people: People, replace: Callable[[x509.CertificateRevocationList], bytes]) -> None:
    alice = x509.load_pem_x509_certificate((people.folder / "alice.crt").read_bytes())
    blocks = pem_blocks(django_settings.CRL_FILE.read_bytes())
    lists = [(block, x509.load_pem_x509_crl(block)) for block in blocks]
    kept = [replace(crl) if crl.issuer == alice.issuer else block for block, crl in lists]
    django_settings.CRL_FILE.write_bytes(b"".join(kept))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (expired, "crl_expired"),
        (not_yet_valid, "crl_not_yet_valid"),
        (missing, "crl_missing"),
        (forged, "crl_bad_signature"),
    ],
)
def test_without_a_good_list_even_alice_is_refused_and_the_log_says_why(
    served: People, caplog: pytest.LogCaptureFixture, damage: Damage, reason: str
) -> None:
    damage(served)

    with serving(Door(), served.folder) as live, refused(caplog, reason, serial_number(served, "alice")):
        assert live.refuses("alice")


def test_an_older_list_put_back_does_not_bring_bob_back(
    served: People, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "SETTLING_SECONDS", 0)
    served.issue("bob", "client")
    older = django_settings.CRL_FILE.read_bytes()
    with serving(Door(), served.folder) as live:
        served.revoke("bob")
        assert live.refuses("bob")
        assert live.get("alice").status == 200

        django_settings.CRL_FILE.write_bytes(older)

        assert live.get("alice").status == 200
        assert "an older revocation list was put in place" in caplog.text
        assert "new TLS files cannot be used" in caplog.text
        with refused(caplog, "revoked", serial_number(served, "bob")):
            assert live.refuses("bob")


def test_a_session_from_before_the_revocation_opens_no_door(served: People, caplog: pytest.LogCaptureFixture) -> None:
    with serving(Door(), served.folder) as live:
        context = live.context("alice")
        with live.connect(context=context) as connection:
            assert connection.get().status == 200
            session = connection.tls.session
        served.revoke("alice")

        with (
            refused(caplog, "revoked", serial_number(served, "alice")),
            live.raw() as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as tls,
        ):
            assert not tls.session_reused
            with suppress(OSError):
                assert tls.recv(1) == b""
    assert live.door.reached == ["/"]


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_whoever_connects_and_leaves_is_counted_but_fills_no_log(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "certs_app")
    before = counted("disconnected")
    with live.raw():
        pass
    with live.raw() as plain:
        plain.sendall(b"\x16\x03\x01\x02\x00")

    until(lambda: counted("disconnected") == before + 2)
    until(lambda: len(lines(caplog)) == 2)
    assert {line.levelno for line in lines(caplog)} == {logging.DEBUG}


@pytest.mark.usefixtures("every_loop")
def test_a_handshake_that_never_ends_is_refused_at_its_deadline(
    served: People, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.HANDSHAKE_TIMEOUT = 1
    with serving(Door(), served.folder) as live, ExitStack() as stack:
        started = time.monotonic()
        with refused(caplog, "timeout"):
            stack.enter_context(live.raw()).sendall(b"\x16\x03\x01\x02\x00")
        assert 0.9 < time.monotonic() - started < 3


def test_a_flood_of_refusals_is_counted_in_full_and_logged_in_part(
    live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    before = counted("other")
    for _ in range(100):
        with live.raw() as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with suppress(OSError):
                plain.recv(100)
    until(lambda: counted("other") == before + 100)
    flooded = len(lines(caplog))
    assert flooded < 100
    time.sleep(1.1)  # the next second has lines of its own

    with live.raw() as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
    until(lambda: len(lines(caplog)) == flooded + 1)

    assert sum(line.suppressed for line in lines(caplog)) + len(lines(caplog)) == 101


def ended(plain: socket.socket) -> bool:
    """Say whether the server ended this connection; one with unread bytes ends by a reset."""
    try:
        return plain.recv(100) == b""
    except ConnectionResetError:
        return True


def test_half_open_handshakes_give_way_to_whoever_comes_later(
    served: People, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MAX_CONNECTIONS, settings.HANDSHAKE_TIMEOUT = 10, 30
    monkeypatch.setattr(doorway, "ROOM_FOR_HANDSHAKES", 5)
    before = counted("overloaded")
    with serving(Door(), served.folder) as live, ExitStack() as stack:
        half_open = [stack.enter_context(live.raw()) for _ in range(40)]
        for plain in half_open:
            plain.sendall(b"\x16\x03\x01\x02\x00")
        until(lambda: counted("overloaded") == before + 25)

        assert live.get("alice").status == 200
        assert ended(half_open[0]), "the oldest had to go"
        half_open[-1].settimeout(0.2)
        with pytest.raises(TimeoutError):
            half_open[-1].recv(100)


def test_every_reason_has_its_label_from_the_start() -> None:
    assert all(counted(reason) >= 0 for reason in refusals.REASONS)


# --- the way in -----------------------------------------------------------------------------------------------------


class ByHand:
    """A client whose every byte on the wire is in the test's hands."""

    def __init__(self, live: Live, plain: socket.socket) -> None:
        self.plain = plain
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = live.context("alice").wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def handshake(self) -> None:
        """Go through the handshake, but keep the last flight back."""
        while True:
            try:
                self.tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self.flush()
                self.receive()

    def flush(self) -> None:
        self.plain.sendall(self.outgoing.read())

    def receive(self) -> bytes:
        data = self.plain.recv(65536)
        self.incoming.write(data)
        return data

    def read(self) -> bytes:
        while True:
            with suppress(ssl.SSLWantReadError):
                return self.tls.read(65536)
            self.receive()


@pytest.mark.usefixtures("every_loop")
def test_a_request_in_one_packet_with_the_end_of_the_handshake_is_answered(live: Live) -> None:
    with live.raw() as plain:
        client = ByHand(live, plain)
        client.handshake()
        client.tls.write(b"GET /first HTTP/1.1\r\nhost: localhost\r\n\r\n")
        client.flush()

        answer = client.read()
        assert answer.startswith(b"HTTP/1.1 200")
        while not answer.endswith(b"}"):
            answer += client.read()
        assert b'"peer": "client/alice"' in answer
        assert b'"scheme": "https"' in answer


@pytest.mark.usefixtures("every_loop")
def test_a_client_hello_in_pieces_is_put_together(live: Live) -> None:
    with live.raw() as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = ByHand(live, plain)
        with suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        for byte in client.outgoing.read():
            plain.sendall(bytes([byte]))
        client.receive()
        client.handshake()
        client.tls.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        client.flush()

        assert client.read().startswith(b"HTTP/1.1 200")


@pytest.mark.usefixtures("every_loop")
def test_a_client_that_does_not_close_its_side_is_not_waited_for(live: Live) -> None:
    with live.raw() as plain:
        client = ByHand(live, plain)
        client.handshake()
        client.tls.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        client.flush()
        assert client.read().startswith(b"HTTP/1.1 200")

        started = time.monotonic()
        with suppress(OSError):
            while client.receive():
                pass
        assert time.monotonic() - started < 3


@pytest.mark.usefixtures("every_loop")
def test_the_server_stops_at_once_whatever_state_its_connections_are_in(served: People) -> None:
    with ExitStack() as stack:
        with serving(Door(), served.folder) as live:
            idle = stack.enter_context(live.connect("alice"))
            assert idle.get().status == 200
            stack.enter_context(live.raw()).sendall(b"\x16\x03\x01\x02\x00")
            stack.enter_context(live.raw())
            time.sleep(0.1)
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 2.5
        assert idle.closed()
