"""revoke_cert --issuer takes the trust from a whole CA; --dry-run says beforehand what would be lost."""

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from django.utils import timezone

from certs_app import revocation_lists
from certs_app.ca_keys import path_of
from certs_app.models import AuditEvent, Certificate, Issuer
from certs_app.tests.test_authority import state, verified
from certs_app.tests.test_certificates_satisfy_others import openssl_verify
from certs_app.tests.test_commands import refused, run
from conftest import People

# --- revoke_cert --issuer ---------------------------------------------------------------------------------------------


def root_list(people: People) -> x509.CertificateRevocationList:
    crl = revocation_lists.newest(Issuer.objects.get(name=Issuer.ROOT))
    assert crl is not None
    return x509.load_der_x509_crl(bytes(crl.der))


def test_a_revoked_ca_is_on_the_roots_list_and_its_leaves_are_refused(people: People) -> None:
    for name in ("alice", "bob"):
        people.issue(name, "client")
    people.issue("node", "registry", dns=["node.example.org"])

    said = run("revoke_cert", "--issuer", "clients", "--reason", "ca_compromise")

    assert said == "Revoked the clients CA and 2 certificates it issued.\n"
    (entry,) = root_list(people)
    clients = Issuer.objects.get(name=Issuer.CLIENTS)
    assert entry.serial_number == clients.certificate.serial_number
    assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.ca_compromise
    assert clients.reason == "ca_compromise"
    for stem in ("alice", "bob"):
        assert "certificate revoked" in openssl_verify(people, people.folder / f"{stem}.crt", "sslclient").stderr
    assert verified(people, "node", "sslserver")
    assert AuditEvent.objects.filter(action="ca_revoked", subject="clients CA", detail="ca_compromise").count() == 1


def test_a_certificate_that_the_thief_makes_afterwards_is_refused(people: People) -> None:
    """The leaf itself is on no list: what refuses it is the CA's entry on the root's."""
    stolen = path_of(Issuer.CLIENTS).read_bytes()
    genuine = people.issue("alice", "client").row.certificate
    run("revoke_cert", "--issuer", "clients")
    builder = (
        x509.CertificateBuilder(extensions=list(genuine.extensions))
        .subject_name(genuine.subject)
        .issuer_name(genuine.issuer)
        .public_key(genuine.public_key())
        .serial_number(genuine.serial_number + 1)
        .not_valid_before(genuine.not_valid_before_utc)
        .not_valid_after(genuine.not_valid_after_utc)
    )
    forged = builder.sign(load_pem_private_key(stolen, password=None), hashes.SHA256())  # type: ignore[arg-type]
    (people.folder / "mallory.crt").write_bytes(forged.public_bytes(Encoding.PEM))

    assert "certificate revoked" in openssl_verify(people, people.folder / "mallory.crt", "sslclient").stderr


def test_afterwards_nothing_is_issued_until_there_is_a_successor(people: People) -> None:
    run("revoke_cert", "--issuer", "clients")

    assert "run `manage.py init_ca --add-issuer clients`" in refused("issue_cert", "alice", "--role", "client")

    run("init_ca", "--add-issuer", "clients")
    people.issue("alice", "client")
    assert verified(people, "alice")


def test_without_the_roots_key_no_ca_is_revoked(people: People) -> None:
    people.issue("alice", "client")
    path_of(Issuer.ROOT).unlink()
    before = state(people.folder)

    assert refused("revoke_cert", "--issuer", "clients").endswith("Nothing was revoked.")

    assert state(people.folder) == before
    assert Issuer.objects.get(name=Issuer.CLIENTS).revoked_at is None
    assert Certificate.objects.get().revoked_at is None
    assert verified(people, "alice")


def test_a_ca_is_revoked_with_the_key_of_its_own_root_alone(people: People) -> None:
    """The other root's key may be in another safe, or lost."""
    run("init_ca", "--add-root")
    run("init_ca", "--add-issuer", "clients")
    people.issue("alice", "client")
    path_of(Issuer.ROOT).unlink()

    run("revoke_cert", "--issuer", "clients-2")

    assert "certificate revoked" in openssl_verify(people, people.folder / "alice.crt", "sslclient").stderr
    assert "root CA cannot be used" in refused("revoke_cert", "--issuer", "clients")


def test_a_root_is_not_revoked(people: People) -> None:
    assert "a root cannot be revoked" in refused("revoke_cert", "--issuer", "root")


def test_an_unknown_ca_is_told_with_the_known_ones(people: People) -> None:
    assert "there is no CA named 'issuing'; there are: root, clients, servers" in refused(
        "revoke_cert", "--issuer", "issuing"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "say whose certificate"),
        (["alice", "--issuer", "clients"], "say whose certificate"),
        (["alice", "--reason", "ca_compromise"], "ca_compromise is for --issuer"),
    ],
)
def test_what_cannot_be_meant_is_refused(people: People, arguments: list[str], sentence: str) -> None:
    assert sentence in refused("revoke_cert", *arguments)


def test_revoking_a_ca_twice_keeps_the_first_time_and_reason(people: People) -> None:
    run("revoke_cert", "--issuer", "clients", "--reason", "ca_compromise")
    first = Issuer.objects.get(name=Issuer.CLIENTS).revoked_at

    run("revoke_cert", "--issuer", "clients", "--reason", "superseded")

    clients = Issuer.objects.get(name=Issuer.CLIENTS)
    assert (clients.revoked_at, clients.reason) == (first, "ca_compromise")
    assert AuditEvent.objects.filter(action="ca_revoked").count() == 1
    assert len(root_list(people)) == 1


# --- revoke_cert --dry-run --------------------------------------------------------------------------------------------


def test_a_dry_run_changes_nothing(people: People) -> None:
    people.issue("alice", "client")
    before = state(people.folder)

    for arguments in (["alice"], ["--issuer", "clients"]):
        run("revoke_cert", *arguments, "--dry-run")

    assert state(people.folder) == before
    assert Certificate.objects.get().revoked_at is None


def test_a_dry_run_says_what_each_was_used_for_and_what_replaces_it(people: People) -> None:
    old = people.issue("alice", "client").row
    new = people.issue("alice", "client").row

    said = run("revoke_cert", "alice", "--dry-run").splitlines()

    assert said == [
        f"Would revoke client/alice (client), serial number {old.serial_number}",
        "  it sent no message in the last 7 days",
        f"  its owner has a newer one, never used yet, to be revoked as well: {new.serial_number}",
        f"Would revoke client/alice (client), serial number {new.serial_number}",
        "  it sent no message in the last 7 days",
        "  its owner has no newer one: afterwards it has none",
    ]
    Certificate.objects.filter(pk=new.pk).update(first_used_at=timezone.now())
    assert f"newer one, in use, to be revoked as well: {new.serial_number}" in run("revoke_cert", "alice", "--dry-run")


def test_a_dry_run_says_what_was_sent_lately(people: People, settings: Any) -> None:
    people.issue("alice", "client")
    settings.CERTIFICATE_ACTIVITY = "certs_app.tests.test_revoking_cas.sent"

    assert "  it sent 3 messages\n" in run("revoke_cert", "alice", "--dry-run")


def sent(serial_number: str, now: Any) -> str:
    assert serial_number == Certificate.objects.get().serial_number
    return "it sent 3 messages"


def test_a_dry_run_of_a_ca_counts_what_it_issued(people: People) -> None:
    for name in ("alice", "bob"):
        people.issue(name, "client")

    said = run("revoke_cert", "--issuer", "clients", "--dry-run")
    assert said == "The clients CA and 2 live certificates it issued would be revoked.\n"


def test_a_dry_run_by_number_sees_what_else_the_owner_has(people: People) -> None:
    old = people.issue("alice", "client").row
    new = people.issue("alice", "client").row

    said = run("revoke_cert", old.serial_number, "--dry-run")
    assert f"its owner has a newer one, never used yet: {new.serial_number}" in said
    said = run("revoke_cert", new.serial_number, "--dry-run")
    assert said.endswith("its owner has no newer one\n")
