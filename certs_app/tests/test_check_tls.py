"""check_tls: what is wrong with a connection, in one plain sentence, proved with real servers and certificates."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.utils import timezone

from certs_app import ca_keys, diagnosis, revocation_lists
from certs_app.admission import PEER, admit
from certs_app.asgi import send_problem
from certs_app.issuing import Request, issue
from certs_app.models import Crl
from certs_app.probing import Address
from certs_app.revocation import pem_blocks
from certs_app.tests.conftest import Door, Live, serving
from certs_app.tests.other_servers import spoken
from certs_app.tests.strangers import _carol
from certs_app.tls import TlsFiles, server_context
from conftest import People
from wire.problems import Problem


class Said:
    """What check_tls found: a verdict, and a sentence per check."""

    def __init__(self, document: dict[str, Any], exit_code: int) -> None:
        self.verdict = str(document["verdict"])
        self.fine = document["fine"]
        self.exit_code = exit_code
        self.ok = {one["check"]: one["ok"] for one in document["findings"]}
        self.sentence = {one["check"]: one["sentence"] for one in document["findings"]}
        self.failed = [one["check"] for one in document["findings"] if one["ok"] is False]


def ask(port: int, *arguments: str, host: str = "localhost") -> Said:
    out, code = StringIO(), 0
    try:
        call_command("check_tls", f"{host}:{port}", "--json", "--timeout", "2", *arguments, stdout=out)
    except CommandError as error:
        code = error.returncode
    return Said(json.loads(out.getvalue()), code)


def chain_of(people: People, stem: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((people.folder / f"{stem}.crt").read_bytes())


def issue_at(people: People, name: str, role: str, shift: timedelta, **options: Any) -> None:
    """Issue with the CA's clock put forward or back."""
    issued = issue(Request(name=name, role=role, **options), timezone.now() + shift, People.operator)
    (people.folder / f"{name}.crt").write_bytes(issued.chain_pem)
    key = people.folder / f"{name}.key"
    key.unlink(missing_ok=True)
    key.touch(0o600)
    key.write_bytes(issued.key_pem)


# --- everything is fine -----------------------------------------------------------------------------------------------


def test_a_good_connection_is_fine_in_every_check(live: Live) -> None:
    said = ask(live.port, "--as", "alice")

    assert (said.verdict, said.exit_code, said.fine) == ("Everything is fine.", 0, True)
    assert list(said.ok.values()) == [True] * 10
    assert live.door.reached == ["/healthz"]
    assert "client/alice" in said.sentence["our certificate"]


def test_a_person_gets_a_line_per_check_and_a_verdict(live: Live) -> None:
    out = StringIO()
    call_command("check_tls", f"localhost:{live.port}", "--as", "alice", stdout=out)
    *lines, empty, last = out.getvalue().splitlines()
    assert (empty, last) == ("", "Everything is fine.")
    assert all(line.startswith("ok   ") for line in lines)

    out = StringIO()
    with pytest.raises(CommandError, match="came without: give --cert and --key"):
        call_command("check_tls", f"localhost:{live.port}", stdout=out)
    marks = {line[5:25].strip(): line[:5].strip() for line in out.getvalue().splitlines()}
    assert (marks["our certificate"], marks["TLS 1.3"], marks["admission"]) == ("-", "ok", "FAIL")


def test_files_can_be_named_one_by_one(live: Live, tmp_path: Path) -> None:
    apart = tmp_path / "apart"
    apart.mkdir()
    for name in ("alice.crt", "alice.key", "ca.crt", "crl.pem"):
        shutil.copy(live.folder / name, apart)
    named = ["--cert", "alice.crt", "--key", "alice.key", "--ca", "ca.crt", "--crl", "crl.pem"]
    arguments = [part if part.startswith("--") else str(apart / part) for part in named]

    assert ask(live.port, *arguments).fine


def test_an_address_is_checked_like_a_name(live: Live) -> None:
    assert ask(live.port, "--as", "alice", host="127.0.0.1").fine


# --- what is wrong with us --------------------------------------------------------------------------------------------


def test_without_a_certificate_the_server_lets_nobody_in(live: Live) -> None:
    said = ask(live.port)

    assert said.exit_code == 1
    assert "requires a certificate, and we came without" in said.verdict
    assert said.ok["server certificate"] is True
    assert live.door.reached == []


def test_our_certificate_is_revoked(live: Live, served: People) -> None:
    served.revoke("alice", "key_compromise")

    said = ask(live.port, "--as", "alice")

    assert "Our certificate (number " in said.verdict
    assert "was revoked at 20" in said.verdict
    assert "(keyCompromise)" in said.verdict
    assert said.failed == ["our certificate", "admission"]


def test_our_certificate_is_revoked_and_only_the_server_knows(live: Live, served: People, tmp_path: Path) -> None:
    """Our own list is older. What the client sees is often the end of the connection and no alert."""
    shutil.copy(live.folder / "crl.pem", tmp_path / "old.pem")
    served.revoke("alice")

    said = ask(live.port, "--as", "alice", "--crl", str(tmp_path / "old.pem"))

    assert said.failed == ["admission"]
    assert "It may have a newer revocation list" in said.verdict or "names our certificate" in said.verdict


def listed(people: People) -> None:
    people.revoke("alice")


def out_of_date(people: People) -> None:
    revocation_lists.publish(timezone.now() - timedelta(hours=django_settings.CRL_HOURS, seconds=1))


def not_begun(people: People) -> None:
    revocation_lists.publish(timezone.now() + timedelta(hours=1))


def without_the_root(people: People) -> None:
    lists = django_settings.CRL_FILE.read_bytes()
    django_settings.CRL_FILE.write_bytes(b"".join(pem_blocks(lists)[1:]))


@pytest.mark.parametrize(
    ("happens", "sentence"),
    [
        (listed, "its revocation list names our certificate"),
        (out_of_date, "it holds our certificate or its own list for expired"),
        (not_begun, "finds our certificate or its own list not valid yet"),
        (without_the_root, "does not know our CA or has no list of it"),
    ],
)
def test_a_server_that_says_why_is_understood(
    served: People, tmp_path: Path, happens: Callable[[People], None], sentence: str
) -> None:
    """Other servers send the alert (RFC 8446 §6.2): nginx, openssl, Python's own."""
    shutil.copy(served.folder / "crl.pem", tmp_path / "old.pem")
    happens(served)
    files = TlsFiles(served.folder / "localhost.crt", served.folder / "localhost.key", *_trust())

    with spoken(server_context(files, client_certificates=True), b"") as port:
        said = ask(port, "--as", "alice", "--crl", str(tmp_path / "old.pem"))
        without = ask(port, "--crl", str(tmp_path / "old.pem"))

    assert said.failed == ["admission"]
    assert said.verdict.startswith("The server refused us: ")
    assert sentence in said.verdict
    assert "we came without" in without.verdict


def _trust() -> tuple[Path, Path]:
    return django_settings.CA_FILE, django_settings.CRL_FILE


def test_our_certificate_is_expired(live: Live, served: People) -> None:
    issue_at(served, "erin", "client", timedelta(days=-2), days=1)

    said = ask(live.port, "--as", "erin")

    assert said.verdict.startswith("Our certificate expired at 20")
    assert said.failed == ["our certificate", "admission"]


def test_our_certificate_is_not_valid_yet(live: Live, served: People) -> None:
    issue_at(served, "alice", "client", timedelta(hours=2))

    said = ask(live.port, "--as", "alice")

    assert "Our certificate is not valid before" in said.sentence["our certificate"]
    assert "set the clock, or wait" in said.sentence["our certificate"]
    assert "clock is probably behind" in said.verdict


def test_our_certificate_is_of_another_ca(live: Live, served: People) -> None:
    _carol(served)
    (served.folder / "carol.key").chmod(0o600)

    said = ask(live.port, "--as", "carol")

    assert "Our certificate was issued by another CA" in said.verdict
    assert said.failed == ["our certificate", "admission"]


def test_our_certificate_is_a_servers(live: Live, served: People) -> None:
    said = ask(live.port, "--as", "localhost")

    assert "Our certificate is a server certificate, and a client certificate is needed" in said.verdict
    assert said.failed == ["our certificate", "admission"]


def test_our_key_is_another_ones(live: Live, served: People) -> None:
    served.issue("bob", "client")
    shutil.copy(live.folder / "bob.key", live.folder / "alice.key")

    said = ask(live.port, "--as", "alice")

    assert "is not the key of" in said.verdict
    assert said.ok["server certificate"] is True


def test_our_key_can_be_read_by_others(live: Live) -> None:
    (live.folder / "alice.key").chmod(0o644)

    assert "others could read it. Run: chmod 600" in ask(live.port, "--as", "alice").verdict


def test_our_key_has_a_passphrase(live: Live) -> None:
    file = live.folder / "alice.key"
    key = load_pem_private_key(file.read_bytes(), password=None)
    file.write_bytes(ca_keys.private_pem(key, ca_keys.BestAvailableEncryption(b"secret")))  # type: ignore[arg-type]

    assert "has a passphrase" in ask(live.port, "--as", "alice").verdict


def test_our_files_are_no_certificate_and_no_key(live: Live) -> None:
    (live.folder / "alice.key").write_bytes(b"junk")
    assert "is no private key in PEM form" in ask(live.port, "--as", "alice").verdict
    (live.folder / "alice.crt").write_bytes(b"junk")
    assert "cannot be read" in ask(live.port, "--as", "alice").verdict


def test_our_certificate_names_nobody_of_this_system(live: Live, settings: Any) -> None:
    settings.TRUST_DOMAIN = "elsewhere"

    assert "is not one of this system" in ask(live.port, "--as", "alice").verdict


def test_our_role_may_not_use_the_page(served: People) -> None:
    class Picky(Door):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            try:
                admit(scope[PEER], frozenset({"admin"}), self.revocations)
            except Problem as problem:
                await send_problem(send, problem)

    with serving(Picky(), served.folder) as live:
        said = ask(live.port, "--as", "alice", "--path", "/generate_cert")

    assert said.failed == ["answer"]
    assert said.verdict == (
        "GET /generate_cert: HTTP 403, role_not_allowed: Your certificate's role is client; this is for: admin."
    )


# --- what is wrong with the lists and the CA file ---------------------------------------------------------------------


def test_the_list_is_expired(live: Live, settings: Any) -> None:
    revocation_lists.publish(timezone.now() - timedelta(hours=settings.CRL_HOURS, seconds=1))

    said = ask(live.port, "--as", "alice")

    assert "The revocation list of CN=msgsys Clients CA 1,O=msgsys expired at" in said.verdict
    assert "publish_crl" in said.verdict


@pytest.mark.parametrize(("gone", "name"), [(0, "Root"), (1, "Clients"), (2, "Servers")])
def test_the_list_of_one_ca_is_missing(live: Live, settings: Any, gone: int, name: str) -> None:
    lists = [x509.load_der_x509_crl(bytes(crl.der)) for crl in Crl.objects.order_by("issuer")]
    settings.CRL_FILE.write_bytes(
        b"".join(crl.public_bytes(Encoding.PEM) for number, crl in enumerate(lists) if number != gone)
    )

    assert f"There is no revocation list of CN=msgsys {name} CA 1" in ask(live.port, "--as", "alice").verdict


def test_the_list_is_forged(live: Live, settings: Any) -> None:
    good = [x509.load_der_x509_crl(bytes(crl.der)) for crl in Crl.objects.order_by("issuer")]
    forged = (
        x509.CertificateRevocationListBuilder(extensions=list(good[1].extensions))
        .issuer_name(good[1].issuer)
        .last_update(timezone.now() - timedelta(minutes=1))
        .next_update(timezone.now() + timedelta(days=1))
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    settings.CRL_FILE.write_bytes(b"".join(crl.public_bytes(Encoding.PEM) for crl in (good[0], forged, good[2])))

    assert "of CN=msgsys Clients CA 1,O=msgsys is forged" in ask(live.port, "--as", "alice").verdict


def test_the_list_comes_from_the_future(live: Live) -> None:
    revocation_lists.publish(timezone.now() + timedelta(minutes=30))

    said = ask(live.port, "--as", "alice")

    assert "begins at" in said.sentence["revocation lists"]
    assert "clock is probably behind" in said.verdict


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_there_is_no_list_file(live: Live, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "lists.pem"
    if content is not None:
        file.write_bytes(content)

    said = ask(live.port, "--as", "alice", "--crl", str(file))

    assert str(file) in said.verdict
    assert said.ok["TLS 1.3"] is True
    assert said.ok["server certificate"] is None


def test_there_is_no_ca_file(live: Live, tmp_path: Path) -> None:
    said = ask(live.port, "--as", "alice", "--ca", str(tmp_path / "none.crt"))

    assert "The CA file" in said.verdict
    assert "cannot be read" in said.verdict


# --- the clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "sentence"),
    [
        (timedelta(minutes=-4), "clock is 4 minutes behind the server's"),
        (timedelta(minutes=4), "clock is 4 minutes ahead of the server's"),
    ],
)
def test_the_clock_differs_from_the_servers(live: Live, shift: timedelta, sentence: str) -> None:
    files = django_settings.CA_FILE, django_settings.CRL_FILE, live.folder / "alice.crt", live.folder / "alice.key"

    findings = diagnosis.diagnose(diagnosis.Target(Address("localhost", live.port, 2), *files), timezone.now() + shift)

    assert sentence in diagnosis.verdict(findings)


def test_a_clock_that_is_a_day_behind_explains_all_the_rest(live: Live) -> None:
    files = django_settings.CA_FILE, django_settings.CRL_FILE, live.folder / "alice.crt", live.folder / "alice.key"
    target = diagnosis.Target(Address("localhost", live.port, 2), *files)

    findings = diagnosis.diagnose(target, timezone.now() - timedelta(days=1))

    assert {one.check for one in findings if one.ok is False} >= {"our certificate", "revocation lists", "clock"}
    assert "clock is probably behind" in diagnosis.verdict(findings)


# --- what is typed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "say whom to ask: HOST:PORT.*pairs in .*: alice, localhost"),
        (["localhost"], "is no HOST:PORT"),
        (["localhost:"], "is no HOST:PORT"),
        (["localhost:99999"], "is no HOST:PORT"),
        (["https://localhost:8443/"], "is no HOST:PORT"),
        (["localhost:1", "--cert", "a.crt"], "belong together"),
        (["localhost:1", "--as", "a", "--cert", "a.crt", "--key", "a.key"], "not both"),
        (["localhost:1", "--as", "nobody"], "does not exist"),
        (["localhost:1", "--path", "healthz"], "begins with a slash"),
        (["localhost:1", "--path", "/a b"], "begins with a slash"),
        (["localhost:1", "--timeout", "0"], "between 0 and 60"),
    ],
)
def test_what_cannot_be_meant_is_refused(served: People, arguments: list[str], sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        call_command("check_tls", *arguments)


def test_a_server_by_ipv6_address_is_understood(served: People) -> None:
    assert (
        "Nothing listens at [::1]:1" in ask(1, host="[::1]").sentence["connection"]
        or "cannot be reached" in (ask(1, host="[::1]").sentence["connection"])
    )
