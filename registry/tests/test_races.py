"""Several workers at once, on a database that they share."""

import random
from datetime import UTC, datetime
from threading import Event

import pytest
from django.db import OperationalError, connection, transaction

from registry import reindexing, removal
from registry.models import Alias, Message, Removed, StatusEvent
from registry.registering import register_envelopes
from registry.search.models import Unindexed
from registry.statuses import Update, advance, advance_all
from registry.storing import store
from registry.tests.conftest import NOW, a_message, a_row, all_at_once, an_arrival, keep, new_id

ROUNDS = 5
KEY = "ab" * 32


@pytest.fixture
def threads(ingest, shared_database):
    """Let threads register envelopes of this ingest."""
    return lambda work, count=4: all_at_once(work, count)


def test_an_envelope_registered_twice_at_once_is_stored_once(ingest, threads):
    for _ in range(ROUNDS):
        blob = ingest.envelope(*(a_message() for _ in range(20)))
        outcomes = threads(lambda number, blob=blob: register_envelopes([blob], NOW)[0].outcome)
        assert sorted(outcomes) == ["duplicate", "duplicate", "duplicate", "stored"]
    assert Message.objects.count() == 20 * ROUNDS


def test_over_http_as_well(call, ingest, register, shared_database):
    blob = ingest.envelope()
    outcomes = all_at_once(lambda number: register(blob)[0]["outcome"])
    assert sorted(outcomes) == ["duplicate", "duplicate", "duplicate", "stored"]
    assert Message.objects.count() == 1


def test_overlapping_requests_in_any_order_lose_nothing_and_do_not_deadlock(ingest, threads):
    for _ in range(ROUNDS):
        blobs = [ingest.envelope(*(a_message() for _ in range(5))) for _ in range(20)]
        before = Message.objects.count()
        orders = [random.sample(blobs, 15) for _ in range(4)]
        threads(lambda number, orders=orders: register_envelopes(orders[number], NOW))
        taken = {blob for order in orders for blob in order}
        assert Message.objects.count() - before == 5 * len(taken)


class Refusing:
    """The database, giving up statements that begin like this after it has run them, once for each error."""

    def __init__(self, statement, *errors):
        self.statement, self.errors = statement, list(errors)

    def __call__(self, execute, sql, params, many, context):
        done = execute(sql, params, many, context)
        if sql.startswith(self.statement) and self.errors:
            raise self.errors.pop()
        return done


def deadlock():
    return OperationalError(1213, "Deadlock found when trying to get lock")


def test_a_deadlock_is_tried_again(people):
    arrival = an_arrival()
    with connection.execute_wrapper(Refusing("INSERT INTO registry_message", deadlock(), deadlock())):
        assert store([arrival], NOW) == {arrival.uid}
    assert Message.objects.count() == Unindexed.objects.count() == 1


def test_a_deadlock_at_the_end_of_the_transaction_leaves_nothing_half_done(people):
    arrivals = [an_arrival() for _ in range(3)]
    with connection.execute_wrapper(Refusing("INSERT INTO registry_unindexed", deadlock())):
        assert store(arrivals, NOW) == {arrival.uid for arrival in arrivals}
    assert Message.objects.count() == Unindexed.objects.count() == 3


def test_deadlocks_without_end_are_passed_on(people):
    refusing = Refusing("INSERT INTO registry_message", *(deadlock() for _ in range(99)))
    with connection.execute_wrapper(refusing), pytest.raises(OperationalError, match="Deadlock"):
        store([an_arrival()], NOW)
    assert Message.objects.count() == 0


def test_any_other_database_error_is_passed_on(people):
    gone = Refusing("INSERT INTO registry_message", OperationalError(2006, "Server has gone away"))
    with connection.execute_wrapper(gone), pytest.raises(OperationalError, match="gone away"):
        store([an_arrival()], NOW)


def test_what_another_stores_between_the_look_and_the_write_is_noticed(people):
    arrivals = [an_arrival(idempotency=KEY), an_arrival(), an_arrival()]
    others = [arrivals[1], an_arrival(idempotency=KEY)]
    # Known already, so that there is a look at all.
    store(arrivals[2:], NOW)

    looked = []

    def after_the_look(execute, sql, params, many, context):
        answer = execute(sql, params, many, context)
        if not looked and sql.startswith("SELECT uid FROM registry_alias"):
            looked.append(sql)
            store(others, NOW)
        return answer

    with connection.execute_wrapper(after_the_look):
        assert store(arrivals, NOW) == set()
    assert looked
    assert Message.objects.count() == Unindexed.objects.count() == 3
    assert Alias.objects.get().uid == arrivals[0].uid


@pytest.mark.parametrize("again", ["the message", "the same request under another id"])
def test_what_is_delivered_again_while_it_is_removed_does_not_come_back(people, shared_database, again):
    arrivals = {
        "the message": an_arrival(idempotency=KEY),
        "the same request under another id": an_arrival(idempotency=KEY),
    }
    for arrival in arrivals.values():
        store([arrival], NOW)
    row = Message.objects.get()
    removed, storing = Event(), Event()

    def begun(execute, sql, params, many, context):
        # On SQLite the transaction itself waits for the other to end, on MariaDB the statement does.
        if sql.startswith(("BEGIN", "INSERT INTO registry_message")):
            storing.set()
        return execute(sql, params, many, context)

    def work(number):
        if number == 0:
            with transaction.atomic():
                removal.remove([row.pk], "erasure:1", removal.ERASED, removal.Tally())
                removed.set()
                assert storing.wait(30)
            return None
        assert removed.wait(30)
        with connection.execute_wrapper(begun):
            return store([arrivals[again]], NOW)

    assert all_at_once(work, 2) == [None, set()]
    assert Message.objects.count() == Alias.objects.count() == Unindexed.objects.count() == 0
    assert Removed.objects.count() == 2


def test_of_a_batch_only_what_was_removed_is_left_out(people):
    gone, known, new = (an_arrival() for _ in range(3))
    store([gone, known], NOW)
    row = Message.objects.get(uid=gone.uid)
    removal.remove([row.pk], "erasure:1", removal.ERASED, removal.Tally())
    assert store([gone, known, new], NOW) == {new.uid}
    assert {row.uid for row in Message.objects.all()} == {known.uid, new.uid}


def test_what_is_removed_between_the_refusal_and_the_look_does_not_come_back(people):
    arrival = an_arrival()
    store([arrival], NOW)
    row = Message.objects.get()

    def before_the_look(execute, sql, params, many, context):
        if sql.startswith("SELECT uid FROM registry_message") and not Removed.objects.exists():
            removal.remove([row.pk], "erasure:1", removal.ERASED, removal.Tally())
        return execute(sql, params, many, context)

    with connection.execute_wrapper(before_the_look):
        assert store([arrival], NOW) == set()
    assert Removed.objects.get().uid == arrival.uid
    assert not Message.objects.exists()


def test_a_batch_of_long_work_is_done_again_after_a_deadlock(people):
    rows = [a_row() for _ in range(3)]
    keep(*rows)
    Message.objects.update(sender_index=bytes(8))
    with connection.execute_wrapper(Refusing("UPDATE registry_message", deadlock(), deadlock())):
        *_, checkpoint = reindexing.senders(NOW)
    assert (checkpoint.done, checkpoint.skipped, checkpoint.finished_at is None) == (3, 0, False)
    assert not Message.objects.filter(sender_index=bytes(8)).exists()


def test_one_idempotency_key_at_once_under_several_ids_is_one_row(ingest, threads):
    for round_number in range(ROUNDS):
        key = f"{round_number:064x}"
        blobs = [ingest.envelope(a_message(idempotency=key), *(a_message() for _ in range(3))) for _ in range(4)]
        threads(lambda number, blobs=blobs: register_envelopes([blobs[number]], NOW))
        assert Message.objects.filter(idempotency=bytes.fromhex(key)).count() == 1
    assert Message.objects.count() == 13 * ROUNDS


def test_two_ends_reported_at_once_are_one_end(shared_database):
    for _ in range(ROUNDS):
        row = a_row(id=new_id(datetime.now(UTC)))
        row.save()

        def report(number, uid=row.uid):
            try:
                return advance(Update(uid, ("delivered", "failed")[number % 2], NOW, ""), f"gateway/{number}")
            except Exception as error:
                return type(error).__name__

        answers = set(all_at_once(report))
        (event,) = StatusEvent.objects.filter(message=row)
        assert answers == {event.status, "BackwardStep"}
        assert Message.objects.get(pk=row.pk).status == event.status


def test_overlapping_batches_of_steps_lose_nothing_and_do_not_deadlock(shared_database):
    for _ in range(ROUNDS):
        rows = [a_row() for _ in range(30)]
        keep(*rows)
        ways = [("dispatched", "delivered"), ("dispatched", "failed")]
        batches = [
            [Update(row.uid, status, NOW, "") for row in random.sample(rows, 30) for status in ways[number % 2]]
            for number in range(4)
        ]
        all_at_once(lambda number, batches=batches: advance_all(batches[number], f"gateway/{number}"))
        for row in Message.objects.filter(uid__in=[row.uid for row in rows]):
            assert [event.status for event in row.events.all()] == ["dispatched", row.status]
            assert row.status in ("delivered", "failed")


def test_threads_share_one_database(shared_database):
    a_row().save()
    assert all_at_once(lambda number: Message.objects.count()) == [1, 1, 1, 1]
    assert not connection.in_atomic_block
