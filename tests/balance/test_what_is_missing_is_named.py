"""At any minute it can be said that nothing is missing; and when something is, it is said what."""

import json
import sqlite3

import pytest

from ingest.books import Missing
from ingest.registry_client import RegistryAway
from registry.models import Message, QueueReport
from tests.balance.conftest import as_ids


def test_what_is_stored_is_settled_and_not_asked_again(home):
    home.submit(3)
    home.deliver()
    report = home.balance()
    assert (report.unaccounted, report.complete) == (0, True)
    home.registry.calls.clear()
    home.balance()
    assert not any(call.get("ranges") or call.get("ids") for call in home.registry.calls)


def test_a_row_that_was_deleted_is_named_within_two_passes(home):
    lost, *_ = home.submit(5)
    home.deliver()
    Message.objects.filter(uid__in=as_ids(lost)).delete()
    assert home.balance().unaccounted == 0
    assert home.balance().unaccounted == 1
    assert home.missing == {lost}


def test_an_entry_that_was_taken_out_of_the_queue_is_named(home):
    ids = home.submit(5)
    taken = json.loads(home.valkey.client.lpop("deliver"))
    assert taken["headers"]["id"]
    assert home.balance(2).unaccounted == 1
    assert home.missing == {ids[-1]}
    home.deliver()
    assert home.balance().unaccounted == 1
    assert home.missing == {ids[-1]}


def test_a_loss_is_logged_once_by_its_ids(home, capsys):
    lost, *_ = home.submit(3)
    home.valkey.client.rpop("deliver")
    home.balance(4)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "unaccounted" in line]
    assert lost in line
    assert "ERROR" in line


def test_a_message_of_a_batch_is_named_among_a_thousand(home):
    ids = home.submit_batch(1000)
    home.deliver()
    Message.objects.filter(uid__in=as_ids(ids[456])).delete()
    home.balance(2)
    assert home.missing == {ids[456]}


def test_every_message_of_a_redis_that_lost_its_data_is_named(home):
    stored = home.submit(4)
    home.deliver()
    lost = home.submit(300, client="alice") + home.submit_batch(150, client="dave")
    home.valkey.client.flushall()
    assert home.balance(2).unaccounted == 450
    assert home.missing == set(lost)
    assert not home.missing & set(stored)


def test_what_was_missing_and_turns_up_is_no_longer_missing(home):
    home.submit(1)
    entry = home.valkey.client.rpop("deliver")
    assert home.balance(2).unaccounted == 1
    home.valkey.client.lpush("deliver", entry)
    assert home.balance().unaccounted == 0
    home.deliver()
    assert home.balance().complete
    assert home.missing == set()


def test_what_waits_is_not_missing(home):
    home.submit(6)
    client = home.valkey.client
    held, dead = json.loads(client.rpop("deliver")), json.loads(client.rpop("deliver"))
    client.zadd("deliver.workers", {"worker-1": 1.0})
    client.hset("deliver.held:worker-1", held["properties"]["delivery_tag"], json.dumps(held))
    letter = {"id": dead["headers"]["id"], "code": "bad_seal", "at": 1, "entry": json.dumps(dead)}
    client.hset("deliver.dead_letters", letter["id"], json.dumps(letter))
    report = home.balance(3)
    assert report.unaccounted == 0
    assert (report.queue.depth, report.queue.held, report.queue.dead) == (4, 1, 1)
    assert report.queue.oldest_at is not None


def test_what_waits_for_its_retry_as_celery_writes_it_is_not_missing(home):
    home.submit(1)
    entry = json.loads(home.valkey.client.rpop("deliver"))
    entry["properties"]["delivery_tag"] = "another"
    home.valkey.client.lpush("deliver", json.dumps(entry, indent=1))
    assert home.balance(2).unaccounted == 0


def test_the_registry_is_told_what_the_portal_shows(home):
    (lost, *_) = home.submit(3)
    home.valkey.client.rpop("deliver")
    home.balance(2)
    row = QueueReport.objects.get()
    assert (row.ingest, row.depth, row.unaccounted) == ("ingest", 2, 1)
    assert row.settled_until is not None
    # It is said of the time before the lost one only.
    received = as_ids(lost)[0].int >> 80
    assert row.settled_until.timestamp() * 1000 <= received


def test_a_registry_that_is_away_costs_nothing_and_forgets_nothing(home):
    (lost, *_) = home.submit(3)
    home.valkey.client.rpop("deliver")
    home.balance()
    home.registry.away = True
    for _ in range(3):
        try:
            home.balance()
        except RegistryAway:
            continue
        raise AssertionError("nobody was there")
    home.registry.away = False
    assert home.balance().unaccounted == 1
    assert home.missing == {lost}


def test_a_restart_goes_on_where_it_stopped(home):
    (lost, *_) = home.submit(3)
    home.valkey.client.rpop("deliver")
    home.balance()
    home.restart()
    assert home.balance().unaccounted == 1
    assert home.missing == {lost}


def test_one_request_under_two_ids_is_not_missing(home):
    (first,) = home.submit(1, key="order-1")
    home.valkey.client.delete(*home.valkey.client.keys("msgsys:idempotency:*"))
    (second,) = home.submit(1, key="order-1")
    assert first != second
    home.deliver()
    assert Message.objects.count() == 1
    assert home.balance(2).unaccounted == 0
    assert home.sheet.books.open_ranges(1 << 47, 0) == []


def test_two_ingests_do_not_disturb_each_other(home, make_home):
    second = make_home("second")
    ours, theirs = home.submit(3), second.submit(3)
    home.valkey.client.lpop("deliver")
    home.deliver()
    assert (home.balance(2).unaccounted, second.balance(2).unaccounted) == (0, 1)
    assert second.missing == {theirs[-1]}
    Message.objects.filter(uid__in=as_ids(ours[0])).delete()
    # Settled is settled: nobody asks again for what was stored once (reconcile does).
    assert home.balance(2).unaccounted == 0
    assert {row.ingest for row in QueueReport.objects.all()} == {"ingest", "second"}


def test_a_chunk_is_given_up_as_a_whole_or_not_at_all(home):
    first, second = (Missing(one, "alice", 0) for one in as_ids(*home.submit(2)))
    books = home.sheet.books
    books.suspect([second], 1)
    # What a full disk does in the middle of it.
    books._database.execute(
        "CREATE TEMP TRIGGER full BEFORE UPDATE ON missing BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    )
    with pytest.raises(sqlite3.IntegrityError, match="the disk is full"):
        books.give_up([first, second])
    assert books.written_off([first.id, second.id]) == set()


def test_what_is_given_up_alarms_no_more(home):
    home.submit(3)
    home.valkey.client.rpop("deliver")
    home.balance(2)
    assert home.sheet.books.write_off() == 1
    home.deliver()
    report = home.balance(2)
    assert (report.unaccounted, report.complete) == (0, True)
    assert home.sheet.books.open_ranges(1 << 47, 0) == []
