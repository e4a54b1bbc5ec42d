"""Revoking, and the lists that say so."""

import os
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from django.conf import settings as django_settings
from django.db import transaction
from django.utils import timezone

from certs_app import revocation_lists
from certs_app.ca_keys import CaKeyError, path_of
from certs_app.issuing import Request, issue
from certs_app.models import REASONS, Certificate, Crl, Issuer
from certs_app.revocation import pem_blocks
from certs_app.revocation_lists import GRACE, ROOT_LIST_LIFE, publish, revoke
from certs_app.tests.processes import result_of, run_beside
from certs_app.tests.test_certificates_satisfy_others import openssl_verify
from conftest import People


def published() -> x509.CertificateRevocationList:
    """The issuing CA's list as servers read it."""
    lists = [x509.load_pem_x509_crl(block) for block in pem_blocks(django_settings.CRL_FILE.read_bytes())]
    subject = Issuer.objects.get(name=Issuer.CLIENTS).certificate.subject
    (own,) = [crl for crl in lists if crl.issuer == subject]
    return own


def number(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def listed() -> set[str]:
    return {f"{entry.serial_number:x}" for entry in published()}


def alices() -> Any:
    return Certificate.objects.filter(name="alice")


def test_a_revocation_is_on_the_published_list_at_once(people: People) -> None:
    alice, bob = people.issue("alice", "client").row, people.issue("bob", "client").row

    people.revoke("bob")

    assert listed() == {bob.serial_number}
    assert alice.serial_number not in listed()


def test_revoking_again_keeps_the_first_time_and_reason(people: People) -> None:
    people.issue("alice", "client")
    first = timezone.now()

    assert len(revoke(alices(), "superseded", first, People.operator)) == 1
    assert revoke(alices(), "key_compromise", first + timedelta(hours=1), People.operator) == []

    row = alices().get()
    assert (row.revoked_at, row.reason) == (first, "superseded")
    (entry,) = published()
    assert entry.revocation_date_utc == first.replace(microsecond=0)


@pytest.mark.parametrize("reason", REASONS)
def test_the_reason_is_on_the_list(people: People, reason: str) -> None:
    people.issue("alice", "client")

    people.revoke("alice", reason)

    (entry,) = published()
    assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason == REASONS[reason]


def test_no_reason_is_said_by_leaving_it_out(people: People) -> None:
    """RFC 5280 §5.3.1: unspecified(0) should not be written."""
    people.issue("alice", "client")

    people.revoke("alice")

    (entry,) = published()
    assert len(entry.extensions) == 0


@pytest.mark.parametrize("reason", ["certificate_hold", "remove_from_crl", "unspecified", "boredom"])
def test_a_reason_that_cannot_be_meant_is_refused(people: People, reason: str) -> None:
    people.issue("alice", "client")

    with pytest.raises(ValueError, match="unknown reason"):
        people.revoke("alice", reason)
    assert alices().get().revoked_at is None


def test_every_list_has_the_next_number(people: People) -> None:
    numbers = [number(published())]
    for _ in range(3):
        publish(timezone.now())
        numbers.append(number(published()))

    assert numbers == sorted(set(numbers)), "each higher than the one before"
    assert abs(numbers[0] - timezone.now().timestamp()) < 5, "so that a restored database does not go back"


def test_a_list_is_backdated_and_lasts_its_hours(people: People, settings: Any) -> None:
    settings.CRL_HOURS = 7
    now = timezone.now()

    publish(now)

    assert timedelta(minutes=5) <= now - published().last_update_utc < timedelta(minutes=6)
    assert published().next_update_utc == (now + timedelta(hours=7)).replace(microsecond=0)


def test_expired_entries_leave_the_list_after_their_grace(people: People) -> None:
    row = people.issue("alice", "client", days=1).row
    people.revoke("alice")

    publish(row.not_after + GRACE - timedelta(seconds=1))
    assert listed() == {row.serial_number}
    publish(row.not_after + GRACE)
    assert listed() == set()


# --- the root's list ------------------------------------------------------------------------------------------------


def root_lists() -> list[datetime]:
    return list(Crl.objects.filter(issuer__name=Issuer.ROOT).order_by("number").values_list("next_update", flat=True))


def test_the_roots_list_is_renewed_when_a_third_of_its_life_is_left(people: People) -> None:
    (ends,) = root_lists()

    publish(ends - ROOT_LIST_LIFE / 3)
    assert len(root_lists()) == 1
    publish(ends - ROOT_LIST_LIFE / 3 + timedelta(seconds=1))
    assert len(root_lists()) == 2
    assert root_lists()[1] > ends


def test_an_absent_root_key_does_not_stop_the_issuing_lists(people: People, caplog: pytest.LogCaptureFixture) -> None:
    """The root's key is moved offline: four months later, revoking must still work."""
    (ends,) = root_lists()
    later = ends - timedelta(days=30)
    issue(Request("alice", "client"), later, People.operator)
    path_of(Issuer.ROOT).unlink()

    assert len(revoke(alices(), "key_compromise", later, People.operator)) == 1

    assert len(listed()) == 1
    assert len(root_lists()) == 1
    assert "bring back its key" in caplog.text


def test_without_the_issuing_key_nothing_is_revoked(people: People) -> None:
    people.issue("alice", "client")
    path_of(Issuer.CLIENTS).unlink()

    with pytest.raises(CaKeyError):
        people.revoke("alice")
    assert alices().get().revoked_at is None
    assert Crl.objects.filter(issuer__name=Issuer.CLIENTS).count() == 1


# --- the file -------------------------------------------------------------------------------------------------------


def test_the_file_follows_the_commit_and_not_the_call(people: People) -> None:
    people.issue("alice", "client")

    with transaction.atomic():
        people.revoke("alice")
        assert listed() == set()
    assert len(listed()) == 1


def test_a_rolled_back_revocation_never_reaches_the_file(people: People) -> None:
    people.issue("alice", "client")
    before = django_settings.CRL_FILE.read_bytes()

    with transaction.atomic():
        people.revoke("alice")
        transaction.set_rollback(True)

    assert django_settings.CRL_FILE.read_bytes() == before


def test_a_failed_write_leaves_the_old_list_and_the_next_try_repairs_it(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    people.issue("alice", "client")
    before = django_settings.CRL_FILE.read_bytes()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            people.revoke("alice")
    assert django_settings.CRL_FILE.read_bytes() == before

    people.revoke("alice")
    assert len(listed()) == 1


def test_the_file_holds_the_newest_list_of_every_issuer(people: People) -> None:
    publish(timezone.now())

    lists = [x509.load_pem_x509_crl(block) for block in pem_blocks(revocation_lists.bundle(timezone.now()))]

    assert [number(crl) for crl in lists] == [
        Crl.objects.filter(issuer=one).latest("number").number for one in Issuer.objects.order_by("id")
    ]
    for crl, issuer in zip(lists, Issuer.objects.order_by("id"), strict=True):
        assert crl.is_signature_valid(issuer.certificate.public_key())  # type: ignore[arg-type]


# --- many -----------------------------------------------------------------------------------------------------------


def revoked_rows(number: int) -> None:
    """Put revoked certificates into the table: a list needs their numbers and dates only."""
    issuer, now = Issuer.objects.get(name=Issuer.CLIENTS), timezone.now()
    Certificate.objects.bulk_create(
        Certificate(
            issuer=issuer,
            serial_number=f"{x509.random_serial_number():x}",
            role="client",
            name=f"client{each}",
            usage="client",
            fingerprint=f"{number}-{each}",
            not_before=now - timedelta(days=1),
            not_after=now + timedelta(days=300),
            revoked_at=now,
            reason="superseded" if each % 2 else "",
        )
        for each in range(number)
    )


def cpu_seconds_to_publish() -> float:
    begun = time.process_time()
    publish(timezone.now())
    return time.process_time() - begun


def test_a_list_of_ten_thousand_is_made_in_time_that_grows_with_it(people: People) -> None:
    """The library's own way to add entries copies them all each time: 100,000 took half a minute."""
    people.issue("alice", "client")
    people.issue("bob", "client")
    people.revoke("bob")
    publish(timezone.now())
    revoked_rows(1_000)
    thousand = min(cpu_seconds_to_publish() for _ in range(3))
    revoked_rows(9_000)
    ten_thousand = min(cpu_seconds_to_publish() for _ in range(2))

    assert len(published()) == 10_001
    assert ten_thousand < 20 * thousand, (thousand, ten_thousand)
    assert openssl_verify(people, people.folder / "alice.crt", "sslclient").returncode == 0
    assert "certificate revoked" in openssl_verify(people, people.folder / "bob.crt", "sslclient").stderr


def test_old_lists_are_pruned_and_the_newest_stay(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_lists, "KEPT", 4)
    for _ in range(7):
        publish(timezone.now())

    in_file = [number(x509.load_pem_x509_crl(block)) for block in pem_blocks(django_settings.CRL_FILE.read_bytes())]
    for place, kind in enumerate((Issuer.CLIENTS, Issuer.SERVERS), start=1):
        kept = Crl.objects.filter(issuer__name=kind).order_by("number").values_list("number", flat=True)
        assert len(kept) == 4
        assert list(kept)[-1] == in_file[place]
    assert len(root_lists()) == 1


# --- at once --------------------------------------------------------------------------------------------------------

EACH = 100

# The registry, the jobs and an operator at the terminal are processes of their own.
TWO_HUNDRED = f"""
from django.utils import timezone
from certs_app.audit import Actor
from certs_app.issuing import Request, issue
for number in range({2 * EACH}):
    issue(Request(f"client{{number}}", "client"), timezone.now(), Actor("operator:olga"))
"""
REVOKE = f"""
from django.utils import timezone
from certs_app.audit import Actor
from certs_app.models import Certificate
from certs_app.revocation_lists import revoke
for number in range(HALF, {2 * EACH}, 2):
    chosen = Certificate.objects.filter(name=f"client{{number}}")
    assert len(revoke(chosen, "", timezone.now(), Actor("operator:olga"))) == 1
"""
OUTCOME = """
from cryptography import x509
from django.conf import settings
from certs_app import audit, revocation_lists
from certs_app.models import Certificate, Crl
numbers, sizes = [], []
for row in Crl.objects.filter(issuer__name="clients").order_by("id"):
    numbers.append(row.number)
    sizes.append(len(x509.load_der_x509_crl(bytes(row.der))))
result(numbers=numbers, sizes=sizes, file=str(settings.CRL_FILE), kept=revocation_lists.KEPT,
       revoked=Certificate.objects.exclude(revoked_at=None).count(), broken=[one.pk for one in audit.broken()])
"""


def test_two_processes_that_revoke_at_once_lose_nothing_and_number_in_order(tmp_path: Path) -> None:
    run_beside(tmp_path, *(f"HALF = {half}\n{REVOKE}" for half in (0, 1)), before=TWO_HUNDRED)

    outcome = result_of(tmp_path, OUTCOME)

    assert outcome["revoked"] == 2 * EACH
    # One list per revocation after the first list of all; each says one more than the one before it.
    assert outcome["numbers"] == sorted(set(outcome["numbers"]))
    assert outcome["sizes"] == list(range(2 * EACH + 1 - outcome["kept"], 2 * EACH + 1))
    assert outcome["broken"] == []
    newest = x509.load_pem_x509_crl(pem_blocks(Path(outcome["file"]).read_bytes())[1])
    assert len(newest) == 2 * EACH
    assert number(newest) == outcome["numbers"][-1]
