from datetime import timedelta

import pytest
from django.utils import timezone

from certs_app.ca_keys import path_of
from certs_app.models import Crl, Issuer
from certs_app.revocation_lists import publish
from deploy import jobs
from registry import retention
from registry.models import Message, Run
from registry.registering import register_one
from wire import ids, messages


@pytest.fixture
def newest(people):
    return lambda: Crl.objects.filter(issuer__name=Issuer.CLIENTS).order_by("-number").first()


def test_a_new_list_is_issued_when_the_last_one_is_an_hour_old(newest, settings):
    first = newest()
    jobs.run_due(timezone.now() + timedelta(minutes=30))
    assert newest().number == first.number
    jobs.run_due(timezone.now() + timedelta(minutes=settings.CRL_REISSUE_MINUTES))
    assert newest().number > first.number


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


def test_a_list_from_before_the_clock_was_set_back_is_made_anew(people):
    publish(timezone.now() + timedelta(days=1))
    assert jobs.crl_due(timezone.now())


def test_a_ca_whose_key_is_lost_does_not_have_all_lists_made_at_every_look(people):
    path_of("servers").unlink()
    later = timezone.now() + timedelta(hours=2)
    publish(later)
    assert not jobs.crl_due(later + timedelta(minutes=1))


@pytest.fixture
def purging(people, settings, monkeypatch):
    """Store messages of last year, which may be kept for a month; let a look have no time to go on."""
    settings.RETENTION_DAYS, settings.RETENTION_FILE = 30, None
    monkeypatch.setattr(jobs, "_hourly", jobs.every(timedelta(hours=1)))
    monkeypatch.setattr(jobs, "_PURGE_SECONDS", 0)
    monkeypatch.setattr(retention, "BATCH", 2)
    at = timezone.now() - timedelta(days=300)
    for number in range(5):
        content = {"client": "alice", "certificate": "a1", "sender_number": "+4915200000000"}
        message = messages.Message(id=ids.new_id(at.timestamp()), message_body=f"pump {number}", **content)
        register_one(message, timezone.now())


def test_a_purge_goes_on_at_each_look_until_it_is_done_and_then_rests_for_an_hour(purging):
    now = timezone.now()
    left = []
    for _ in range(4):
        jobs.run_due(now)
        left.append(Message.objects.count())
    assert left == [3, 1, 0, 0]
    assert not jobs.purge_due(now + timedelta(minutes=59))
    assert jobs.purge_due(now + timedelta(minutes=61))
    assert not Run.objects.filter(stale=True).exists()


def test_a_purge_that_failed_is_tried_again_at_the_next_look(purging, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(retention.removal, "remove", lambda *arguments: 1 / 0)
        jobs.run_due(timezone.now())
    assert Message.objects.count() == 5
    jobs.run_due(timezone.now())
    assert Message.objects.count() == 3
    jobs._purge_goes_on.clear()
