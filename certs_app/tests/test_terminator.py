"""What a TLS terminator tells is believed with its token only, and every certificate is verified once more."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from django.utils import timezone

from certs_app import terminator as module
from certs_app.admission import PEER
from certs_app.terminator import ForwardedCaller, Terminator, take
from conftest import People

TOKEN = "a-token-of-more-than-thirty-two-characters"


def leaf(people: People, stem: str) -> bytes:
    """Return the PEM of a person's own certificate, as nginx passes it on: without its issuer."""
    first = x509.load_pem_x509_certificates((people.folder / f"{stem}.crt").read_bytes())[0]
    return first.public_bytes(Encoding.PEM)


def header(pem: bytes, token: str = TOKEN) -> bytes:
    return f"{token} {quote(pem, safe='')}".encode()


@pytest.fixture
def terminator(people: People, settings: Any) -> Terminator:
    people.issue("alice", "client")
    return Terminator(TOKEN, settings.CA_FILE, settings.TRUST_DOMAIN)


def test_a_forwarded_client_is_who_its_certificate_says(terminator: Terminator, people: People) -> None:
    peer = terminator.verify_forwarded(header(leaf(people, "alice")), timezone.now())
    assert peer == people.peer("alice")


def stranger(name: str) -> bytes:
    """Make carol: the right identity, signed by nobody we know."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    uri = x509.UniformResourceIdentifier(f"spiffe://msgsys/client/{name}")
    now = timezone.now()
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)


UNBELIEVABLE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda alice: b"",
    "the token alone": lambda alice: TOKEN.encode(),
    "the token and a space": lambda alice: TOKEN.encode() + b" ",
    "no token": lambda alice: quote(alice, safe="").encode(),
    "an empty token": lambda alice: header(alice, ""),
    "another token": lambda alice: header(alice, TOKEN[:-1] + "x"),
    "the beginning of the token": lambda alice: header(alice, TOKEN[:-1]),
    "the token twice": lambda alice: header(alice, f"{TOKEN} {TOKEN}"),
    "junk": lambda alice: header(b"\x00\xff junk"),
    "a broken escape": lambda alice: header(alice) + b"%",
    "an empty PEM": lambda alice: header(b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"),
    "two certificates": lambda alice: header(alice + alice),
    "half a certificate": lambda alice: header(alice[: len(alice) // 2]),
    "text before it": lambda alice: header(b"admin\n" + alice),
    "two headers joined by a comma": lambda alice: header(alice) + b", " + header(alice),
    "a certificate of another CA": lambda alice: header(stranger("carol")),
    "a megabyte": lambda alice: header(alice + b"\n" * 1_000_000),
}


@pytest.mark.parametrize("case", UNBELIEVABLE)
def test_nobody_is_the_caller_after(case: str, terminator: Terminator, people: People) -> None:
    value = UNBELIEVABLE[case](leaf(people, "alice"))
    assert terminator.verify_forwarded(value, timezone.now()) is None


def test_without_a_token_of_its_own_it_believes_nobody(people: People, settings: Any) -> None:
    people.issue("alice", "client")
    tokenless = Terminator("", settings.CA_FILE, settings.TRUST_DOMAIN)
    for value in (header(leaf(people, "alice"), ""), header(leaf(people, "alice"))):
        assert tokenless.verify_forwarded(value, timezone.now()) is None


def test_a_server_certificate_does_not_make_a_caller(terminator: Terminator, people: People) -> None:
    people.issue("localhost", "registry", dns=["localhost"])
    assert terminator.verify_forwarded(header(leaf(people, "localhost")), timezone.now()) is None


def test_a_ca_is_no_caller(terminator: Terminator, people: People) -> None:
    for authority in x509.load_pem_x509_certificates((people.folder / "ca.crt").read_bytes()):
        value = header(authority.public_bytes(Encoding.PEM))
        assert terminator.verify_forwarded(value, timezone.now()) is None


def test_another_trust_domain_is_not_ours(people: People, settings: Any) -> None:
    people.issue("alice", "client")
    elsewhere = Terminator(TOKEN, settings.CA_FILE, "example.org")
    assert elsewhere.verify_forwarded(header(leaf(people, "alice")), timezone.now()) is None


@pytest.mark.parametrize("days", [-1, 366])
def test_outside_its_dates_a_certificate_is_refused_though_it_was_known(
    days: int, terminator: Terminator, people: People
) -> None:
    value, now = header(leaf(people, "alice")), timezone.now()
    assert terminator.verify_forwarded(value, now) is not None
    assert terminator.verify_forwarded(value, now + timedelta(days=days)) is None


def test_a_known_caller_is_not_verified_again(
    terminator: Terminator, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = header(leaf(people, "alice"))
    first = terminator.verify_forwarded(value, timezone.now())
    monkeypatch.setattr(module, "PolicyBuilder", None)
    assert terminator.verify_forwarded(value, timezone.now()) is first


def test_a_known_caller_still_needs_the_token(terminator: Terminator, people: People) -> None:
    assert terminator.verify_forwarded(header(leaf(people, "alice")), timezone.now()) is not None
    assert terminator.verify_forwarded(header(leaf(people, "alice"), "x" * 40), timezone.now()) is None


def test_the_known_callers_are_bounded(terminator: Terminator, people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 3)
    for number in range(5):
        people.issue(f"pump-{number}", "client")
        assert terminator.verify_forwarded(header(leaf(people, f"pump-{number}")), timezone.now()) is not None
    assert len(terminator._authorities.current()._known) == 3


def test_a_new_ca_file_ends_the_callers_of_the_old_one(terminator: Terminator, people: People, settings: Any) -> None:
    value = header(leaf(people, "alice"))
    assert terminator.verify_forwarded(value, timezone.now()) is not None
    settings.CA_FILE.write_text(stranger("another root").decode())
    assert terminator.verify_forwarded(value, timezone.now()) is None


@pytest.mark.parametrize("content", ["", "junk", "-----BEGIN CERTIFICATE-----"])
def test_a_ca_file_that_cannot_be_read_leaves_the_last_good_one(
    content: str, terminator: Terminator, people: People, settings: Any
) -> None:
    value = header(leaf(people, "alice"))
    assert terminator.verify_forwarded(value, timezone.now()) is not None
    settings.CA_FILE.write_text(content)
    assert terminator.verify_forwarded(value, timezone.now()) is not None
    settings.CA_FILE.unlink()
    assert terminator.verify_forwarded(value, timezone.now()) is not None


def test_without_any_ca_file_nobody_is_believed(people: People, settings: Any) -> None:
    people.issue("alice", "client")
    lost = Terminator(TOKEN, settings.PKI_DIR / "none.crt", settings.TRUST_DOMAIN)
    assert lost.verify_forwarded(header(leaf(people, "alice")), timezone.now()) is None


def test_nothing_of_a_header_is_logged(
    terminator: Terminator, people: People, caplog: pytest.LogCaptureFixture
) -> None:
    alice = leaf(people, "alice")
    for make in UNBELIEVABLE.values():
        terminator.verify_forwarded(make(alice), timezone.now())
    logged = " ".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "was not believed" in logged
    for secret in (TOKEN, alice.splitlines()[1].decode()):
        assert secret not in logged


def test_an_address_is_believed_with_the_token_only(terminator: Terminator) -> None:
    assert terminator.address(f"{TOKEN} 192.0.2.7".encode()) == "192.0.2.7"
    assert terminator.address(f"{TOKEN} 2001:db8::7".encode()) == "2001:db8::7"
    for value in (b"", b"192.0.2.7", b"x 192.0.2.7", f"{TOKEN} someone".encode(), f"{TOKEN} \xff".encode()):
        assert terminator.address(value) == ""


def test_every_spelling_of_the_header_is_taken_out() -> None:
    headers = [(b"x-ssl-client-cert", b"1"), (b"x_ssl_client_cert", b"2"), (b"x-ssl_client-cert", b"3"), (b"a", b"b")]
    assert take(headers, "X-SSL-Client-Cert") == b"1"
    assert headers == [(b"a", b"b")]


@pytest.mark.parametrize("sent", [[], [b"1", b"2"], [b"1", b"1"]])
def test_a_header_counts_only_when_it_comes_once(sent: list[bytes]) -> None:
    assert take([(b"x-ssl-client-cert", value) for value in sent], "X-SSL-Client-Cert") == b""


def through_wsgi(terminator: Terminator, environ: dict[str, Any]) -> dict[str, Any]:
    """Return the environ as the application gets it."""
    seen: dict[str, Any] = {}

    def application(given: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.update(given)
        return []

    list(ForwardedCaller(application, terminator)(environ, None))
    return seen


def test_wsgi_applications_get_the_caller_and_not_the_header(terminator: Terminator, people: People) -> None:
    environ = {
        "HTTP_X_SSL_CLIENT_CERT": header(leaf(people, "alice")).decode(),
        "HTTP_X_REAL_IP": f"{TOKEN} 192.0.2.7",
        "REMOTE_ADDR": "127.0.0.1",
    }
    assert through_wsgi(terminator, environ) == {PEER: people.peer("alice"), "REMOTE_ADDR": "192.0.2.7"}


def test_wsgi_callers_without_the_header_are_nobody_whatever_was_there(terminator: Terminator, people: People) -> None:
    forged = {PEER: people.peer("alice"), "REMOTE_ADDR": "127.0.0.1"}
    assert through_wsgi(terminator, forged) == {PEER: None, "REMOTE_ADDR": ""}
