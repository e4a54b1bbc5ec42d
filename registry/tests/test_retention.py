"""Messages that are older than the policy allows go, with all that belongs to them; everything else stays."""

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from certs_app import audit
from certs_app.audit import Actor
from certs_app.models import AuditEvent
from registry import metrics, removal, retention
from registry.models import Alias, Message, Posting, Removed, Run, StatusEvent, Unindexed
from registry.search import building
from registry.statuses import Update, advance
from registry.tests.conftest import NOW, a_message, a_row, all_at_once, keep, new_id

DAY = timedelta(days=1)


@pytest.fixture
def old(db):
    """Return a function that stores messages, received so many days ago."""

    def store(days, count=1, **changes):
        at = timezone.now() - days * DAY
        rows = [a_row(id=new_id(at + number * timedelta(seconds=1)), **changes) for number in range(count)]
        keep(*rows)
        return rows

    return store


@pytest.fixture
def policy(settings, tmp_path):
    """Set the retention: days for all, other days for some clients."""

    def put(days, **of_client):
        settings.RETENTION_DAYS = days
        settings.RETENTION_FILE = None
        if of_client:
            settings.RETENTION_FILE = tmp_path / "retention.json"
            settings.RETENTION_FILE.write_text(json.dumps(of_client))

    return put


def purge(*arguments):
    out = StringIO()
    call_command("purge", "--json", *arguments, stdout=out)
    return json.loads(out.getvalue())


def left():
    return set(Message.objects.values_list("uid", flat=True))


def uids(*rows):
    return {row.uid for some in rows for row in some}


def test_by_default_nothing_is_ever_purged(old, settings):
    assert (settings.RETENTION_DAYS, settings.RETENTION_FILE) == (0, None)
    kept = old(20_000)
    assert purge()["messages"] == 0
    assert left() == uids(kept)
    out = StringIO()
    call_command("purge", stdout=out)
    assert "for ever" in out.getvalue()


def test_each_client_has_its_own_time_and_all_others_the_default(old, policy):
    policy(30, bob=5, carol=0, dave=90)
    kept = uids(old(29), old(4, client="bob"), old(900, client="carol"), old(80, client="dave"))
    old(31), old(6, client="bob"), old(91, client="dave"), old(31, client="worker:w1")
    assert purge("--dry-run")["clients"] == {"alice": 1, "bob": 1, "dave": 1, "worker:w1": 1}
    assert len(left()) == 8
    purge()
    assert left() == kept


def test_what_belongs_to_a_message_goes_with_it(old, policy):
    policy(30)
    (gone,), (kept,) = old(31), old(1)
    for row in (gone, kept):
        advance(Update(row.uid, "delivered", NOW, ""), "gateway/g1")
        Alias.objects.create(uid=new_id(), message=row, accepted_by="ingest")
    old(31)
    building.index_new(timezone.now())
    (waiting,) = old(31)
    purge()
    assert left() == {kept.uid}
    assert StatusEvent.objects.get().message_id == kept.pk
    assert Alias.objects.get().message_id == kept.pk
    assert not Unindexed.objects.filter(message_id=waiting.pk).exists()
    assert Run.objects.get().stale


def test_the_search_index_is_made_anew_and_verifies(old, policy):
    policy(30)
    old(31, 3), old(1, 2)
    building.index_new(timezone.now())
    old(31, 2)
    lists = Posting.objects.count()
    purge()
    call_command("verify_registry", stdout=StringIO())
    assert building.has_enough()
    building.index_new(timezone.now())
    run = Run.objects.get()
    assert (run.messages, run.stale) == (2, False)
    assert Posting.objects.count() <= lists
    call_command("verify_registry", stdout=StringIO())


def test_a_purge_is_audited_once_and_counted(old, policy):
    policy(30)
    old(31, 3), old(40, client="bob")
    before = metrics.REMOVED.labels("purged")._value.get()
    purge()
    event = AuditEvent.objects.get(action=audit.PURGED)
    assert event.subject.startswith("purge:")
    assert event.detail.startswith("4 message(s) of 2 client(s), received ")
    assert event.actor.startswith("operator:")
    assert set(Removed.objects.values_list("removal", flat=True)) == {event.subject}
    assert metrics.REMOVED.labels("purged")._value.get() == before + 4
    purge()
    assert AuditEvent.objects.filter(action=audit.PURGED).count() == 1
    assert list(audit.broken()) == []


def test_many_go_in_small_batches_and_within_the_time(old, policy, monkeypatch):
    policy(30)
    old(31, 25)
    monkeypatch.setattr(retention, "BATCH", 10)
    tally, finished = retention.purge(retention.policy(), timezone.now(), Actor("jobs"), seconds=0)
    assert (tally.messages, finished) == (10, False)
    tally, finished = retention.purge(retention.policy(), timezone.now(), Actor("jobs"))
    assert (tally.messages, finished) == (15, True)


def test_a_dry_run_reads_in_pages_and_counts_each_once(old, policy, monkeypatch):
    """mysqlclient fetches a result as a whole: years of rows would be in memory at once."""
    policy(30)
    rows = old(31, 25)
    Message.objects.filter(uid__in=[row.uid for row in rows[3:18]]).update(received_at=rows[3].received_at)
    old(31, 3, client="bob")
    monkeypatch.setattr(retention, "_COUNTED_AT_A_TIME", 10)
    unlimited = []

    def watch(execute, sql, params, many, context):
        unlimited.extend([sql] * ("registry_message" in sql and " LIMIT " not in sql))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch):
        assert purge("--dry-run")["clients"] == {"alice": 25, "bob": 3}
    assert unlimited == []


def test_an_edited_date_does_not_have_the_evidence_removed(old, policy):
    policy(30)
    (row,) = old(1)
    Message.objects.update(received_at=timezone.now() - 900 * DAY)
    purge()
    assert left() == {row.uid}


def test_what_was_purged_is_not_missing_from_the_balance_sheet(ingest, register, call, people, policy):
    policy(30)
    at = timezone.now() - 31 * DAY
    first, again, other = new_id(at), new_id(at), new_id(at)
    register(
        ingest.envelope(a_message(id=first, idempotency="ab" * 32)),
        ingest.envelope(a_message(id=again, idempotency="ab" * 32)),
        ingest.envelope(a_message(id=other, client="bob")),
    )
    start = first.int >> 80
    asked = {"key": "00" * 16, "ranges": [[start, start + 1]], "ids": [str(first), str(again), str(other)]}
    before = call("/balance", asked, peer=people.peer("ingest", "ingest")).json()
    assert before["unknown"] == []
    assert before["ranges"][0]["alice"]["count"] == 2
    purge()
    assert left() == set()
    assert call("/balance", asked, peer=people.peer("ingest", "ingest")).json() == before


def test_what_was_purged_never_comes_back(ingest, register, call, policy):
    policy(30)
    message = a_message(id=new_id(timezone.now() - 31 * DAY))
    blob = ingest.envelope(message)
    assert register(blob)[0]["outcome"] == "stored"
    purge()
    assert register(blob)[0]["outcome"] == "duplicate"
    assert left() == set()
    in_the_clear = {"id": str(message.id), "sender_number": "+4915200000000", "message_body": "x"}
    assert call("/register", in_the_clear).status_code == 422


def test_ids_are_forgotten_when_no_ledger_has_them_any_more(old, policy, settings):
    policy(30)
    settings.LEDGER_DAYS = 400
    (forgotten,), (noted,) = old(401), old(399)
    purge()
    assert set(Removed.objects.values_list("uid", flat=True)) == {noted.uid}
    assert forgotten.uid not in left()


@pytest.mark.parametrize(
    ("days", "content", "said"),
    [
        (1, "{}", "at least 2 days"),
        (30, '{"alice": 1}', "alice: messages are kept for at least 2 days"),
        (30, '{"alice": -1}', "retention of alice"),
        (30, "{", "cannot be read"),
        (30, None, "cannot be read"),
    ],
)
def test_a_policy_that_cannot_be_used_is_told_at_the_start_and_purges_nothing(
    old, settings, tmp_path, days, content, said
):
    settings.RETENTION_DAYS, settings.RETENTION_FILE = days, tmp_path / "retention.json"
    if content is not None:
        settings.RETENTION_FILE.write_text(content)
    old(900)
    with pytest.raises(CommandError, match=said):
        purge()
    assert Message.objects.count() == 1
    settings.ROLE = "registry"
    assert [error.id for error in run_checks(tags=["retention"])] == ["msgsys.E210"]


def test_a_good_policy_passes_the_check(settings, policy):
    settings.ROLE = "registry"
    policy(2, alice=0)
    assert run_checks(tags=["retention"]) == []


def test_a_purge_beside_the_index_job_and_status_updates_leaves_nothing_behind(shared_database, policy):
    policy(30)
    at = timezone.now() - 31 * DAY
    for _ in range(3):
        rows = [a_row(id=new_id(at)) for _ in range(40)]
        keep(*rows)

        def work(number, rows=rows):
            try:
                if number == 0:
                    tally = removal.Tally()
                    for row in Message.objects.filter(uid__in=[row.uid for row in rows]).order_by("-id"):
                        removal.remove([row.pk], "purge:1", removal.PURGED, tally)
                elif number == 1:
                    building.index_new(timezone.now())
                else:
                    for row in rows:
                        advance(Update(row.uid, "delivered", NOW, ""), "gateway/g1")
            except Exception as error:
                return type(error).__name__

        # The index job gives way and is tried again at the next look, an update finds its message gone.
        assert set(all_at_once(work, 3)) <= {None, "Overtaken", "UnknownMessage", "OperationalError"}
        assert not Message.objects.exists()
        building.index_new(timezone.now())
    assert not StatusEvent.objects.exists()
    assert not Unindexed.objects.exists()
    assert not Run.objects.exists()
    assert not Posting.objects.exists()
