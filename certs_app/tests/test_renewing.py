"""Renewal: the same names and life with a new key; the old one goes only when the new one is seen in use."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from certs_app import uses
from certs_app.issuing import IssuingRefused, Request, issue
from certs_app.models import AuditEvent, Certificate, CertificateQuerySet
from certs_app.renewing import MAX_UNUSED, RenewalRefused, life_of, renew
from certs_app.tests.test_certificates_satisfy_others import FALSE_POSITIVES, findings, openssl_verify
from certs_app.tests.test_commands import mode, refused, run
from certs_app.uses import note_use
from conftest import People


@pytest.fixture(autouse=True)
def _nothing_noted() -> Iterator[None]:
    """Each test has a database of its own; what this process remembers must not outlive it."""
    uses._noted.clear()
    yield
    uses._noted.clear()


def renewed(row: Certificate, csr: bytes = b"") -> Certificate:
    return renew(row, csr, timezone.now(), People.operator).row


def used(row: Certificate) -> None:
    note_use([row.serial_number], timezone.now())


def names(row: Certificate) -> x509.SubjectAlternativeName:
    return row.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def again(row: Certificate) -> Certificate:
    return Certificate.objects.get(pk=row.pk)


# --- what the successor is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "options"),
    [
        ("client", {"days": 90}),
        ("registry", {"dns": ["node.example.org", "localhost"], "ip": ["192.0.2.7", "2001:db8::7"], "days": 45}),
        ("ingest", {"usage": "client"}),
        ("client", {}),
    ],
)
def test_the_successor_has_the_same_names_and_life_and_another_key(
    people: People, role: str, options: dict[str, Any]
) -> None:
    old = people.issue("node", role, **options).row

    new = renewed(old)

    assert (new.role, new.name, new.usage) == (old.role, old.name, old.usage)
    assert names(new) == names(old)
    assert life_of(new) == life_of(old)
    assert new.spki_sha256 != old.spki_sha256
    assert new.serial_number != old.serial_number
    assert new.replaces == old
    purpose = f"ssl{new.usage}"
    (people.folder / "new.crt").write_bytes(new.certificate.public_bytes(Encoding.PEM))
    assert openssl_verify(people, people.folder / "new.crt", purpose).returncode == 0
    assert findings(new.der) <= FALSE_POSITIVES


@pytest.mark.parametrize("life", [timedelta(minutes=10), timedelta(minutes=55), timedelta(hours=2), timedelta(days=30)])
def test_the_life_does_not_shrink_from_one_renewal_to_the_next(people: People, life: timedelta) -> None:
    row = issue(Request("alice", "client", life=life), timezone.now(), People.operator).row
    for _ in range(4):
        row = renewed(row)
        used(row)

    assert abs(life_of(row) - life) < timedelta(seconds=10)


def test_by_csr_the_key_stays_with_its_owner(people: People) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    old = people.issue("alice", "client").row

    issued = renew(old, csr.public_bytes(Encoding.PEM), timezone.now(), People.operator)

    assert issued.key_pem == b""
    assert issued.row.certificate.public_key() == key.public_key()
    assert issued.row.replaces == old


def test_a_csr_that_is_junk_renews_nothing(people: People) -> None:
    old = people.issue("alice", "client").row

    with pytest.raises(IssuingRefused, match="CSR cannot be read"):
        renewed(old, b"junk")
    assert Certificate.objects.count() == 1


def test_a_renewal_is_in_the_record(people: People) -> None:
    old = people.issue("alice", "client").row

    new = renewed(old)

    event = AuditEvent.objects.latest("id")
    assert (event.action, event.subject, event.subject_certificate) == ("renewed", "client/alice", new.serial_number)
    assert event.detail.endswith(f"replaces {old.serial_number}")


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_revoked_certificate_is_not_renewed(people: People) -> None:
    old = people.issue("alice", "client").row
    people.revoke("alice")

    with pytest.raises(RenewalRefused, match="a revoked certificate is not renewed"):
        renewed(again(old))


def test_a_certificate_that_is_revoked_while_it_is_renewed_is_not(people: People) -> None:
    """Who renews looked at the row before; who revokes by name finds no successor yet."""
    looked_at = people.issue("alice", "client").row
    people.revoke("alice")
    assert looked_at.revoked_at is None

    with pytest.raises(IssuingRefused, match="a revoked certificate is not renewed"):
        renewed(looked_at)
    assert Certificate.objects.count() == 1


def test_an_expired_certificate_is_not_renewed(people: People) -> None:
    old = people.issue("alice", "client", days=1).row

    with pytest.raises(RenewalRefused, match="has expired: ask the operator"):
        renew(old, b"", old.not_after, People.operator)


def test_a_superseded_certificate_is_not_renewed(people: People) -> None:
    old = people.issue("alice", "client").row
    used(renewed(old))

    with pytest.raises(RenewalRefused, match="its successor is in use: renew that one"):
        renewed(again(old))


def test_at_most_ten_successors_are_unused(people: People) -> None:
    old = people.issue("alice", "client").row
    for _ in range(MAX_UNUSED):
        renewed(old)

    with pytest.raises(RenewalRefused, match="renewed 10 times within a day and none of those was used"):
        renewed(old)
    assert old.replaced_by.count() == MAX_UNUSED == 10


# --- the first use ----------------------------------------------------------------------------------------------------


def test_the_first_use_of_the_successor_supersedes_the_old_one(people: People) -> None:
    old = people.issue("alice", "client").row
    new = renewed(old)
    assert again(old).state(timezone.now()) == "valid"

    used(new)

    assert again(old).state(timezone.now()) == "superseded"
    assert again(new).first_used_at is not None
    event = AuditEvent.objects.latest("id")
    assert (event.action, event.actor, event.subject) == ("superseded", "client/alice", "client/alice")
    assert event.subject_certificate == old.serial_number
    assert event.actor_certificate == new.serial_number


def test_a_superseded_certificate_is_still_let_in(people: People) -> None:
    """Some machine of its owner may not have the new one yet. Revoking is another thing."""
    old = people.issue("alice", "client").row
    used(renewed(old))

    assert openssl_verify(people, people.folder / "alice.crt", "sslclient").returncode == 0


def test_only_the_first_use_counts(people: People) -> None:
    old = people.issue("alice", "client").row
    new = renewed(old)
    used(new)
    first, events = again(new).first_used_at, AuditEvent.objects.count()

    uses._noted.clear()  # another process
    note_use([new.serial_number], timezone.now() + timedelta(hours=1))

    assert again(new).first_used_at == first
    assert AuditEvent.objects.count() == events


def test_two_successors_supersede_once(people: People) -> None:
    old = people.issue("alice", "client").row
    one, other = renewed(old), renewed(old)

    note_use([one.serial_number, other.serial_number], timezone.now())

    assert AuditEvent.objects.filter(action="superseded").count() == 1
    assert again(one).first_used_at is not None
    assert again(other).first_used_at is not None


def test_the_use_of_one_that_replaces_nothing_is_noted(people: People) -> None:
    row = people.issue("alice", "client").row

    used(row)

    assert again(row).first_used_at is not None
    assert not AuditEvent.objects.filter(action="superseded").exists()


def test_a_known_use_asks_the_database_nothing(people: People) -> None:
    row = people.issue("alice", "client").row
    used(row)

    with CaptureQueriesContext(connection) as queries:
        used(row)
        note_use([], timezone.now())
    assert len(queries) == 0


def test_a_certificate_that_nobody_knows_is_no_error(people: People) -> None:
    note_use(["beef"], timezone.now())


def test_noting_never_fails_on_a_database_that_does(
    people: People, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    row = people.issue("alice", "client").row

    def gone(*_: object, **__: object) -> Any:
        raise DatabaseError("the server has gone away")

    with monkeypatch.context() as patch:
        patch.setattr(CertificateQuerySet, "filter", gone)
        used(row)

    assert "the use of a certificate was not noted" in caplog.text
    used(row)
    assert again(row).first_used_at is not None, "a use that was not noted is noted the next time"


def test_a_failure_half_way_leaves_nothing_half_done(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    old = people.issue("alice", "client").row
    new = renewed(old)

    def full(*_: object, **__: object) -> None:
        raise DatabaseError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(uses.audit, "record", full)
        used(new)

    assert again(new).first_used_at is None
    assert again(old).superseded_at is None
    used(new)
    assert again(old).superseded_at is not None


def test_what_is_remembered_has_a_bound(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uses, "_MAX_NOTED", 10)
    for number in range(40):
        note_use([f"{number:x}"], timezone.now())

    assert len(uses._noted) <= 11


def test_threads_may_note_at_once(people: People) -> None:
    failures: list[BaseException] = []

    def note() -> None:
        try:
            for number in range(2000):
                uses._noted.update({f"{number:x}"})
                note_use([f"{number:x}"], timezone.now())
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# --- renew_cert -------------------------------------------------------------------------------------------------------


def test_renew_cert_replaces_the_files(people: People) -> None:
    run("issue_cert", "alice", "--role", "client")
    before = (people.folder / "alice.key").read_bytes()

    said = run("renew_cert", "alice")

    new = Certificate.objects.latest("id")
    assert new.replaces is not None
    assert new.serial_number in said
    key = load_pem_private_key((people.folder / "alice.key").read_bytes(), password=None)
    leaf, issuing = x509.load_pem_x509_certificates((people.folder / "alice.crt").read_bytes())
    assert key.public_key() == leaf.public_key() == new.certificate.public_key()
    leaf.verify_directly_issued_by(issuing)
    assert (people.folder / "alice.key").read_bytes() != before
    assert mode(people.folder / "alice.key") == 0o600


def test_renew_cert_by_csr_leaves_the_key_file_alone(people: People, tmp_path: Path) -> None:
    run("issue_cert", "alice", "--role", "client")
    before = (people.folder / "alice.key").read_bytes()
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    (tmp_path / "alice.csr").write_bytes(csr.public_bytes(Encoding.PEM))

    run("renew_cert", "alice", "--csr", str(tmp_path / "alice.csr"), "--out", str(tmp_path / "out"))

    assert (people.folder / "alice.key").read_bytes() == before
    leaf = x509.load_pem_x509_certificates((tmp_path / "out" / "alice.crt").read_bytes())[0]
    assert leaf.public_key() == key.public_key()
    assert not (tmp_path / "out" / "alice.key").exists()


def test_renew_cert_never_puts_a_certificate_beside_another_key(people: People, tmp_path: Path) -> None:
    run("issue_cert", "alice", "--role", "client")
    before = (people.folder / "alice.crt").read_bytes()
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    (tmp_path / "alice.csr").write_bytes(csr.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))

    assert "is not the key of this CSR" in refused("renew_cert", "alice", "--csr", str(tmp_path / "alice.csr"))
    assert (people.folder / "alice.crt").read_bytes() == before
    asked = ["alice", "--role", "client", "--csr", str(tmp_path / "alice.csr")]
    assert "exists already" in refused("issue_cert", *asked)

    own = load_pem_private_key((people.folder / "alice.key").read_bytes(), password=None)
    (tmp_path / "alice.csr").write_bytes(csr.sign(own, hashes.SHA256()).public_bytes(Encoding.PEM))
    run("renew_cert", "alice", "--csr", str(tmp_path / "alice.csr"))
    assert Certificate.objects.count() == 2


def test_renew_cert_of_a_name_with_two_usages_must_be_told_which(people: People) -> None:
    people.issue("ingest", "ingest", usage="client")
    people.issue("ingest", "ingest", usage="server")

    assert "several usages (client, server): add --usage" in refused("renew_cert", "ingest")

    run("renew_cert", "ingest", "--usage", "client")
    assert Certificate.objects.latest("id").usage == "client"


def test_renew_cert_of_what_is_over_says_what_to_do(people: People) -> None:
    people.issue("alice", "client")
    people.revoke("alice")

    assert "issue a new one with issue_cert" in refused("renew_cert", "alice")


def test_renew_cert_of_a_number_that_was_superseded_renews_nothing(people: People) -> None:
    old = people.issue("alice", "client").row
    used(renewed(old))

    assert "no certificate of" in refused("renew_cert", old.serial_number)
    assert Certificate.objects.count() == 2
