"""A service renews its own certificates: when, how, and what happens when it cannot."""

import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.utils import timezone

from certs_app import metrics, pairs
from certs_app.ca_client import CaAway, CaRefuses
from certs_app.issuing import Request, issue
from certs_app.local_ca import LocalCa
from certs_app.models import AuditEvent, Certificate
from certs_app.own_certificates import RENEW_AT, OwnCertificate, keep, renewal_time
from certs_app.tests.conftest import Door, serving
from conftest import People


@pytest.fixture
def own(people: People, settings: Any) -> OwnCertificate:
    settings.ROLE = "registry"
    people.issue("registry", "registry", dns=["localhost"], ip=["127.0.0.1"])
    return OwnCertificate(people.folder / "registry.crt", people.folder / "registry.key")


def fits(own: OwnCertificate) -> bool:
    key: Any = load_pem_private_key(own.key.read_bytes(), password=None)
    return bool(key.public_key() == own.load().public_key())


def due(own: OwnCertificate) -> datetime:
    return renewal_time(own.load()) + timedelta(seconds=1)


def test_nothing_happens_before_two_thirds_of_life(own: OwnCertificate) -> None:
    before = own.load()

    keep([own], LocalCa(), renewal_time(before) - timedelta(seconds=1))

    assert own.load() == before
    assert Certificate.objects.count() == 1


def test_at_two_thirds_of_life_there_is_a_new_pair_for_the_same_names_and_life(own: OwnCertificate) -> None:
    before = own.load()

    keep([own], LocalCa(), due(own))

    after = own.load()
    assert after.serial_number != before.serial_number
    assert after.public_key() != before.public_key(), "a renewal is a new key as well"
    assert fits(own)
    assert own.key.stat().st_mode & 0o777 == 0o600
    for kind in (x509.SubjectAlternativeName, x509.ExtendedKeyUsage):
        assert after.extensions.get_extension_for_class(kind) == before.extensions.get_extension_for_class(kind)
    assert len(x509.load_pem_x509_certificates(own.certificate.read_bytes())) == 2, "its issuer comes with it"
    old = Certificate.objects.get(serial_number=f"{before.serial_number:x}")
    assert old.superseded_at is not None
    assert list(AuditEvent.objects.order_by("id").values_list("action", flat=True))[-2:] == ["renewed", "superseded"]


def test_services_started_together_do_not_renew_together(people: People) -> None:
    moments = set()
    now = timezone.now()
    for number in range(10):
        certificate = issue(Request(f"w{number}", "worker"), now, People.operator).row.certificate
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        share = (renewal_time(certificate) - certificate.not_valid_before_utc) / life
        assert RENEW_AT <= share <= RENEW_AT + 0.05
        moments.add(share)

    assert len(moments) > 5


class Away:
    """A CA that does not answer."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked = 0

    def renew(self, serial_number: str, csr: bytes) -> bytes:
        self.asked += 1
        raise self.error

    def in_use(self, serial_number: str) -> None:
        raise self.error


@pytest.mark.parametrize("error", [CaAway("no answer"), CaRefuses("HTTP 409"), RuntimeError("surprise")])
def test_a_failing_renewal_is_an_error_long_before_the_end_and_is_tried_again(
    own: OwnCertificate, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    before, away, now = own.load(), Away(error), due(own)
    failures = metrics.RENEWALS.labels("registry", "failed")
    counted = failures._value.get()

    keep([own], away, now)
    keep([own], away, now + timedelta(seconds=1))

    assert away.asked == 1, "not at every look"
    assert failures._value.get() == counted + 1
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.message == "a certificate could not be renewed"
    assert vars(record)["seconds_left"] > 100 * 86400
    assert own.load() == before

    keep([own], LocalCa(), now + timedelta(hours=1, seconds=1))
    assert own.load() != before


def test_the_metric_says_when_the_certificate_ends(own: OwnCertificate) -> None:
    keep([own], LocalCa(), timezone.now())

    ends = metrics.CERTIFICATE_NOT_AFTER.labels("registry")._value.get()
    assert ends == own.load().not_valid_after_utc.timestamp()


def test_an_answer_for_another_key_is_not_put_in_place(own: OwnCertificate, people: People) -> None:
    before = own.load()
    other = people.issue("other", "registry", dns=["localhost"]).chain_pem

    class Confused(LocalCa):
        def renew(self, serial_number: str, csr: bytes) -> bytes:
            return other

    keep([own], Confused(), due(own))

    assert own.load() == before
    assert fits(own)


def test_what_the_ca_was_not_told_it_is_told_later(own: OwnCertificate) -> None:
    before = own.load()

    class Forgetful(LocalCa):
        def in_use(self, serial_number: str) -> None:
            raise CaAway("no answer")

    keep([own], Forgetful(), due(own))
    old = Certificate.objects.get(serial_number=f"{before.serial_number:x}")
    assert old.superseded_at is None

    own.tell_at = timezone.now()
    keep([own], LocalCa(), timezone.now())
    old.refresh_from_db()
    assert old.superseded_at is not None


def test_a_crash_between_the_two_files_is_finished_at_the_next_start(
    own: OwnCertificate, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = own.load()

    def crash(path: Path, content: bytes, **_: Any) -> None:
        raise KeyboardInterrupt

    genuine = pairs.write_atomic

    def crash_at_the_certificate(path: Path, content: bytes, **options: Any) -> None:
        (crash if path == own.certificate else genuine)(path, content, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pairs, "write_atomic", crash_at_the_certificate)
        with pytest.raises(KeyboardInterrupt):
            keep([own], LocalCa(), due(own))
    assert not fits(own)

    pairs.finish_replacing(own.certificate, own.key)

    assert fits(own)
    assert own.load() != before
    assert not list(people.folder.glob(".*.renewed"))


def test_a_running_server_shows_the_renewed_certificate_and_drops_nobody(people: People) -> None:
    people.issue("localhost", "registry", dns=["localhost"], ip=["127.0.0.1"])
    people.issue("alice", "client")
    own = OwnCertificate(people.folder / "localhost.crt", people.folder / "localhost.key")
    with serving(Door(), people.folder) as live, live.connect("alice") as kept:
        before = kept.tls.getpeercert(binary_form=True)
        assert kept.get().status == 200

        keep([own], LocalCa(), due(own))

        with live.connect("alice") as fresh:
            assert fresh.get().status == 200
            assert fresh.tls.getpeercert(binary_form=True) != before
        assert kept.get().status == 200
