"""The CAs: how they are made, added to, and replaced while what they signed goes on."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.utils import timezone

from certs_app import authority
from certs_app.authority import ISSUING_KINDS, ISSUING_LIFE, NoRoot, add_issuers, add_root, init_ca
from certs_app.ca_keys import CaKeyError, path_of
from certs_app.models import AuditEvent, Certificate, Crl, Issuer
from certs_app.tests.test_certificates_satisfy_others import findings, issued, openssl_verify
from certs_app.tests.test_commands import nothing_yet as nothing_yet
from certs_app.tests.test_commands import refused, run
from conftest import People


def state(folder: Path) -> tuple[Any, ...]:
    """All that a CA is: its rows and its files."""
    rows = [model.objects.count() for model in (Issuer, Crl, AuditEvent, Certificate)]
    return rows, {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock"}


def verified(people: People, stem: str, purpose: str = "sslclient") -> bool:
    return openssl_verify(people, people.folder / f"{stem}.crt", purpose).returncode == 0


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_ca_of_rsa_keys_satisfies_openssl_and_the_linter(nothing_yet: Path, settings: Any) -> None:
    run("init_ca", "--key-type", "rsa", "--key-size", "4096")

    for issuer in Issuer.objects.all():
        key = issuer.certificate.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size == 4096
        assert findings(issuer.der) == set()
    people = People(nothing_yet)
    for role, usage in (("client", "client"), ("registry", "server")):
        leaf = issued(people, role, usage)
        assert openssl_verify(people, leaf, f"ssl{usage}").returncode == 0
        assert isinstance(x509.load_pem_x509_certificate(leaf.read_bytes()).public_key(), ec.EllipticCurvePublicKey)
        assert findings(Certificate.objects.get(role=role).der) <= {"pkix.invalid_uri_syntax"}
    people.revoke("node")
    assert "certificate revoked" in openssl_verify(people, nothing_yet / "node-client.crt", "sslclient").stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--key-size", "4096"], "--key-size is for RSA keys"),
        (["--key-type", "rsa", "--key-size", "1024"], "between 2048 and 8192 bits, not 1024"),
        (["--key-type", "rsa", "--key-size", "16384"], "between 2048 and 8192 bits, not 16384"),
    ],
)
def test_a_key_that_nobody_should_have_is_refused(nothing_yet: Path, arguments: list[str], sentence: str) -> None:
    assert sentence in refused("init_ca", *arguments)
    assert not Issuer.objects.exists()


@pytest.fixture
def locked(nothing_yet: Path, settings: Any) -> People:
    """A CA whose root key is encrypted."""
    settings.ROOT_KEY_PASSPHRASE = "correct horse"
    init_ca(timezone.now(), People.operator)
    return People(nothing_yet)


def test_the_root_key_is_encrypted_and_the_issuing_keys_are_not(locked: People) -> None:
    content = path_of(Issuer.ROOT).read_bytes()
    assert content.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    key = load_pem_private_key(content, password=b"correct horse")
    assert key.public_key() == Issuer.objects.get(name=Issuer.ROOT).certificate.public_key()
    for kind in ISSUING_KINDS:
        assert path_of(kind).read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    locked.issue("alice", "client")
    assert verified(locked, "alice")


@pytest.mark.parametrize(
    ("passphrase", "reason"),
    [
        ("wrong horse", "Incorrect password, could not decrypt key"),
        ("", "Password was not given but private key is encrypted"),
    ],
)
def test_a_wrong_passphrase_is_told_and_changes_nothing(
    locked: People, settings: Any, passphrase: str, reason: str
) -> None:
    settings.ROOT_KEY_PASSPHRASE = passphrase
    before = state(locked.folder)

    assert refused("init_ca", "--add-issuer") == f"the key of the root CA cannot be used: {reason}"

    assert state(locked.folder) == before


def test_revoking_needs_no_passphrase(locked: People, settings: Any) -> None:
    locked.issue("alice", "client")
    settings.ROOT_KEY_PASSPHRASE = ""

    run("revoke_cert", "alice")

    assert not verified(locked, "alice")


def test_a_root_made_without_a_passphrase_stays_usable_after_one_was_set(people: People, settings: Any) -> None:
    settings.ROOT_KEY_PASSPHRASE = "for the next one"

    run("init_ca", "--add-issuer", "clients")

    assert Issuer.objects.filter(kind=Issuer.CLIENTS).count() == 2


# --- more CAs ---------------------------------------------------------------------------------------------------------


def test_an_added_issuing_ca_signs_and_the_old_one_stays_trusted(people: People) -> None:
    people.issue("alice", "client")
    people.issue("node", "registry", dns=["node.example.org"])

    said = run("init_ca", "--add-issuer")

    assert "Made the clients-2 CA" in said
    assert "Made the servers-2 CA" in said
    people.issue("bob", "client")
    assert Certificate.objects.get(name="bob").issuer.name == "clients-2"
    for stem, purpose in (("alice", "sslclient"), ("bob", "sslclient"), ("node", "sslserver")):
        assert verified(people, stem, purpose), stem
    people.revoke("alice")
    assert not verified(people, "alice")
    assert verified(people, "bob")


def test_one_kind_alone_can_be_added(people: People) -> None:
    run("init_ca", "--add-issuer", "servers")

    assert list(Issuer.objects.order_by("id").values_list("name", flat=True))[3:] == ["servers-2"]


def test_a_new_root_signs_the_cas_that_follow_it(people: People) -> None:
    people.issue("alice", "client")

    assert "Made the root-2 CA" in run("init_ca", "--add-root")
    people.issue("bob", "client")
    run("init_ca", "--add-issuer")
    people.issue("carla", "client")

    new_root = Issuer.objects.get(name="root-2").certificate
    Issuer.objects.get(name="clients-2").certificate.verify_directly_issued_by(new_root)
    assert [Certificate.objects.get(name=name).issuer.name for name in ("alice", "bob", "carla")] == [
        "clients",
        "clients",
        "clients-2",
    ]
    for stem in ("alice", "bob", "carla"):
        assert verified(people, stem), stem
    bundle = x509.load_pem_x509_certificates((people.folder / "ca.crt").read_bytes())
    assert [one.issuer == one.subject for one in bundle] == [True, True, False, False, False, False]


def test_every_ca_has_its_own_name(people: People) -> None:
    """OpenSSL finds an issuer by its name: two of one name and it takes the wrong one."""
    run("init_ca", "--add-root")
    run("init_ca", "--add-issuer")

    assert len({issuer.certificate.subject for issuer in Issuer.objects.all()}) == Issuer.objects.count() == 6


def test_added_cas_satisfy_the_linter(people: People) -> None:
    add_root(timezone.now(), People.operator)
    add_issuers(ISSUING_KINDS, timezone.now(), People.operator)

    for issuer in Issuer.objects.all():
        assert findings(issuer.der) == set(), issuer


def test_an_issuing_ca_never_outlives_its_root(people: People) -> None:
    root = Issuer.objects.get(name=Issuer.ROOT)
    late = root.not_after - timedelta(days=100)

    (early,) = add_issuers((Issuer.CLIENTS,), timezone.now(), People.operator)
    (last,) = add_issuers((Issuer.CLIENTS,), late, People.operator)

    assert early.not_after - timezone.now() > ISSUING_LIFE - timedelta(minutes=1)
    assert last.not_after == root.not_after
    assert last.certificate.not_valid_after_utc == root.certificate.not_valid_after_utc


def test_below_a_root_that_has_ended_nothing_is_made(people: People) -> None:
    after = Issuer.objects.get(name=Issuer.ROOT).not_after + timedelta(seconds=1)

    with pytest.raises(NoRoot, match="no root CA that still stands"):
        add_issuers((Issuer.CLIENTS,), after, People.operator)


def test_adding_before_there_is_a_ca_says_what_to_do(nothing_yet: Path) -> None:
    assert "run `manage.py init_ca` first" in refused("init_ca", "--add-issuer")
    assert list(nothing_yet.rglob("*.key")) == []


def test_an_added_ca_is_in_the_record(people: People) -> None:
    before = AuditEvent.objects.count()

    run("init_ca", "--add-issuer")

    added = AuditEvent.objects.order_by("id")[before:]
    assert [(event.action, event.subject) for event in added] == [
        ("ca_made", "clients-2 CA"),
        ("ca_made", "servers-2 CA"),
    ]


# --- what fails leaves nothing behind ---------------------------------------------------------------------------------


def no_root_key(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    path_of(Issuer.ROOT).unlink()


def key_in_the_way(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    path_of("servers-2").write_bytes(b"the only copy")


def full_disk(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(authority, "write_bundle", full)


@pytest.mark.parametrize("fails", [no_root_key, key_in_the_way, full_disk])
def test_a_failing_add_leaves_no_key_and_no_row_behind(
    people: People, monkeypatch: pytest.MonkeyPatch, fails: Any
) -> None:
    fails(people, monkeypatch)
    before = state(people.folder)

    with pytest.raises((CaKeyError, OSError)):
        add_issuers(ISSUING_KINDS, timezone.now(), People.operator)

    assert state(people.folder) == before


def test_a_list_that_cannot_be_written_takes_no_key_with_it(nothing_yet: Path, settings: Any) -> None:
    """The file follows the commit: by then the CAs are made, and without their keys they would be made in vain."""
    (nothing_yet / "file").touch()
    settings.CRL_FILE = nothing_yet / "file" / "crl.pem"
    with pytest.raises(OSError, match="file"):
        run("init_ca")

    settings.CRL_FILE = nothing_yet / "crl.pem"
    run("publish_crl")
    people = People(nothing_yet)
    people.issue("alice", "client")
    assert verified(people, "alice")


def test_after_a_failed_add_the_next_try_succeeds(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        full_disk(people, patch)
        with pytest.raises(OSError, match="No space"):
            add_issuers(ISSUING_KINDS, timezone.now(), People.operator)

    assert [issuer.name for issuer in add_issuers(ISSUING_KINDS, timezone.now(), People.operator)] == [
        "clients-2",
        "servers-2",
    ]
