"""check_tls: what is wrong with the server or on the way to it."""

import socket
import ssl
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from certs_app import ca_keys
from certs_app.models import Issuer
from certs_app.tests.conftest import Door, Live, serving
from certs_app.tests.other_servers import mute, s_server, spoken
from certs_app.tests.test_check_tls import ask, chain_of, issue_at
from conftest import People

# --- what is wrong with the server ------------------------------------------------------------------------------------


def test_the_servers_certificate_is_of_another_ca(live: Live, served: People, tmp_path: Path) -> None:
    """The CA file is that of another installation."""
    other = ["-nodes", "-keyout", str(tmp_path / "other.key"), "-out", str(tmp_path / "other.crt")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=other", *other],
        check=True,
        capture_output=True,
    )

    said = ask(live.port, "--as", "alice", "--ca", str(tmp_path / "other.crt"))

    assert "server certificate" in said.failed
    assert (
        "is not trusted, another CA issued it (CN=msgsys Servers CA 1,O=msgsys)" in said.sentence["server certificate"]
    )
    assert live.door.reached == []


def test_the_servers_certificate_is_revoked(live: Live, served: People) -> None:
    served.revoke("localhost")

    said = ask(live.port, "--as", "alice")

    assert "The server's certificate (number " in said.verdict
    assert "was revoked" in said.verdict
    assert live.door.reached == []


def test_the_servers_certificate_is_expired(served: People) -> None:
    issue_at(served, "localhost", "registry", timedelta(days=-2), days=1, dns=["localhost"])

    with serving(Door(), served.folder) as live:
        said = ask(live.port, "--as", "alice")

    assert said.verdict.startswith("The server's certificate expired at 20")
    assert said.failed == ["server certificate"]


def test_the_servers_certificate_is_not_valid_yet(served: People) -> None:
    issue_at(served, "localhost", "registry", timedelta(hours=3), dns=["localhost"])

    with serving(Door(), served.folder) as live:
        said = ask(live.port, "--as", "alice")

    assert "The server's certificate is not valid before" in said.sentence["server certificate"]
    assert "clock is probably behind" in said.verdict


def test_the_servers_certificate_is_for_another_host(served: People) -> None:
    served.issue("localhost", "registry", dns=["node.example.org"])

    with serving(Door(), served.folder) as live:
        by_name = ask(live.port, "--as", "alice")
        by_address = ask(live.port, "--as", "alice", host="127.0.0.1")

    assert "is for another host (URI:spiffe://msgsys/registry/localhost, DNS:node.example.org)" in by_name.verdict
    assert "not for 127.0.0.1" in by_address.verdict


def test_the_servers_certificate_is_a_clients(served: People) -> None:
    """OpenSSL's server takes any certificate; ours would not have been issued by the servers' CA."""
    with s_server(served.folder, "alice", "-tls1_3") as port:
        said = ask(port, "--as", "alice")

    assert "The server's certificate is a client certificate, and a server certificate is needed" in said.verdict


def test_a_certificate_that_openssl_finds_wrong_is_told_in_its_words(served: People) -> None:
    """RFC 5280 §4.2.1.1: without an authority key identifier; only strict verification looks."""
    genuine, issuing = chain_of(served, "localhost")
    extensions = [one for one in genuine.extensions if not isinstance(one.value, x509.AuthorityKeyIdentifier)]
    builder = (
        x509.CertificateBuilder(extensions=extensions)
        .subject_name(genuine.subject)
        .issuer_name(genuine.issuer)
        .public_key(genuine.public_key())
        .serial_number(genuine.serial_number + 1)
        .not_valid_before(genuine.not_valid_before_utc)
        .not_valid_after(genuine.not_valid_after_utc)
    )
    sloppy = builder.sign(ca_keys.load(Issuer.SERVERS), hashes.SHA256())
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in (sloppy, issuing))
    (served.folder / "localhost.crt").write_bytes(pem)

    with serving(Door(), served.folder) as live:
        said = ask(live.port, "--as", "alice")

    assert "The server's certificate is refused: Missing Authority Key Identifier" in said.verdict


def test_the_server_speaks_no_tls_1_3(served: People) -> None:
    with s_server(served.folder, "localhost", "-tls1_2") as port:
        said = ask(port, "--as", "alice", host="127.0.0.1")

    assert said.failed == ["TLS 1.3"]
    assert "speaks TLS, but not TLS 1.3" in said.verdict


def test_a_server_of_another_make_is_judged_the_same(served: People) -> None:
    with s_server(served.folder, "localhost", "-tls1_3") as port:
        said = ask(port, "--as", "alice", "--path", "/")

    assert said.fine or said.failed == ["answer"], said.sentence


# --- what is wrong on the way -----------------------------------------------------------------------------------------


def test_nothing_listens_there(served: People) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    said = ask(port, "--as", "alice")

    assert said.failed == ["connection"]
    assert "Nothing listens at localhost" in said.verdict


def test_the_name_does_not_exist(served: People) -> None:
    said = ask(8443, "--as", "alice", host="nowhere.invalid")

    assert said.failed == ["connection"]
    assert "The name nowhere.invalid" in said.verdict


def test_a_server_that_never_answers_is_left_in_time(served: People) -> None:
    begun = time.monotonic()
    with mute() as port:
        said = ask(port, "--as", "alice", "--timeout", "0.5", host="127.0.0.1")

    assert said.failed == ["TLS 1.3"]
    assert "does not begin TLS within 0.5 s" in said.verdict
    assert time.monotonic() - begun < 3


def test_a_server_without_tls_is_called_that(served: People) -> None:
    with mute(answer=b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert "speaks no TLS" in ask(port, "--as", "alice", host="127.0.0.1").verdict


def test_a_server_that_hangs_up_is_called_that(served: People) -> None:
    with mute(answer=b"") as port:
        assert "closed the connection during the handshake" in ask(port, "--as", "alice", host="127.0.0.1").verdict


def test_a_server_that_admits_and_never_answers_is_left_in_time(served: People) -> None:
    class Silent(Door):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

    begun = time.monotonic()
    with serving(Silent(), served.folder) as live:
        said = ask(live.port, "--as", "alice", "--timeout", "0.7")

    assert said.failed == ["answer"]
    assert "gave no answer to GET /healthz within 0.7 s" in said.verdict
    assert time.monotonic() - begun < 8


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", "HTTP 502, and not from this system"),
        (b"HTTP/1.1 503 x\r\ncontent-type: application/problem+json\r\n\r\n{", "with a damaged problem document"),
        (b"SSH-2.0-OpenSSH\r\n", "does not answer in HTTP"),
    ],
)
def test_an_answer_of_somebody_else_is_called_that(served: People, answer: bytes, sentence: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(served.folder / "localhost.crt", served.folder / "localhost.key")

    with spoken(context, answer) as port:
        assert sentence in ask(port, "--as", "alice").verdict
