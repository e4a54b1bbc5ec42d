from datetime import timedelta

import pytest
from django.utils import timezone

from certs_app.models import Crl, Issuer
from deploy import jobs


@pytest.fixture
def newest(people):
    return lambda: Crl.objects.filter(issuer__name=Issuer.ISSUING).order_by("-number").first()


def test_a_new_list_is_issued_when_the_last_one_is_an_hour_old(newest, settings):
    first = newest()
    jobs.run_due(timezone.now() + timedelta(minutes=30))
    assert newest().number == first.number
    jobs.run_due(timezone.now() + timedelta(minutes=settings.CRL_REISSUE_MINUTES))
    assert newest().number == first.number + 1


def test_a_lost_list_file_is_written_again_at_the_next_look(people, settings):
    settings.CRL_FILE.unlink()
    jobs.run_due(timezone.now())
    assert settings.CRL_FILE.exists()


def test_a_failing_job_is_counted_and_does_not_stop_the_others(people, settings, monkeypatch):
    ran = []
    broken = jobs.Job("broken", lambda now: True, lambda now: 1 / 0)
    good = jobs.Job("good", lambda now: True, ran.append)
    monkeypatch.setattr(jobs, "JOBS", [broken, good])
    before = jobs.FAILURES.labels("broken")._value.get()
    jobs.run_due(timezone.now())
    assert jobs.FAILURES.labels("broken")._value.get() == before + 1
    assert len(ran) == 1
