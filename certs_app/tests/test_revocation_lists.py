"""Revoking, and the lists that say so."""

import json
import os
import subprocess
import sys
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
from conftest import People


def published() -> x509.CertificateRevocationList:
    """The issuing CA's list as servers read it."""
    lists = [x509.load_pem_x509_crl(block) for block in pem_blocks(django_settings.CRL_FILE.read_bytes())]
    subject = Issuer.objects.get(name=Issuer.ISSUING).certificate.subject
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

    assert revoke(alices(), "superseded", first) == 1
    assert revoke(alices(), "key_compromise", first + timedelta(hours=1)) == 0

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

    assert numbers == [1, 2, 3, 4]


def test_a_list_is_backdated_and_lasts_its_hours(people: People, settings: Any) -> None:
    settings.CRL_HOURS = 7
    now = timezone.now()

    publish(now)

    assert timedelta(minutes=1) <= now - published().last_update_utc < timedelta(minutes=2)
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
    issue(Request("alice", "client"), later)
    path_of(Issuer.ROOT).unlink()

    assert revoke(alices(), "key_compromise", later) == 1

    assert len(listed()) == 1
    assert len(root_lists()) == 1
    assert "bring back its key" in caplog.text


def test_without_the_issuing_key_nothing_is_revoked(people: People) -> None:
    people.issue("alice", "client")
    path_of(Issuer.ISSUING).unlink()

    with pytest.raises(CaKeyError):
        people.revoke("alice")
    assert alices().get().revoked_at is None
    assert Crl.objects.filter(issuer__name=Issuer.ISSUING).count() == 1


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


def test_the_file_holds_the_newest_list_of_both_issuers(people: People) -> None:
    publish(timezone.now())

    lists = [x509.load_pem_x509_crl(block) for block in pem_blocks(revocation_lists.bundle())]

    assert [number(crl) for crl in lists] == [1, 2]
    for crl, issuer in zip(lists, Issuer.objects.order_by("id"), strict=True):
        assert crl.is_signature_valid(issuer.certificate.public_key())  # type: ignore[arg-type]


# Other processes revoke at the same moment: the registry, the jobs, an operator at the terminal.
MANY = """
import django, json, threading
django.setup()
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from certs_app.authority import init_ca
from certs_app.issuing import Request, issue
from certs_app.models import Certificate, Crl
from certs_app.revocation_lists import revoke
from cryptography import x509

call_command("migrate", "certs_app", verbosity=0)
init_ca(timezone.now())
names = [f"client{number}" for number in range(24)]
for name in names:
    issue(Request(name, "client"), timezone.now())
failures = []

def work(some):
    try:
        for name in some:
            revoke(Certificate.objects.filter(name=name), "", timezone.now())
    except Exception as error:
        failures.append(repr(error))
    finally:
        connection.close()

threads = [threading.Thread(target=work, args=(names[start::6],)) for start in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
rows = Crl.objects.filter(issuer__name="issuing").order_by("number")
print(json.dumps({
    "failures": failures,
    "numbers": [row.number for row in rows],
    "sizes": [len(x509.load_der_x509_crl(bytes(row.der))) for row in rows],
    "file": str(settings.CRL_FILE),
}))
"""


def test_lists_of_concurrent_revocations_only_ever_say_more(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "MSGSYS_HOME": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "msgsys_project.settings.registry",
    }
    for name in ("DATABASE_URL", "MSGSYS_ENV_FILE", "MSGSYS_PKI_DIR", "MSGSYS_SECRETS_DIR"):
        environment.pop(name, None)
    run = subprocess.run(
        [sys.executable, "-c", MANY],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        cwd=django_settings.BASE_DIR,
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])

    assert result["failures"] == []
    assert result["numbers"] == list(range(1, 26))
    assert result["sizes"] == list(range(25))
    newest = x509.load_pem_x509_crl(pem_blocks(Path(result["file"]).read_bytes())[-1])
    assert len(newest) == 24
