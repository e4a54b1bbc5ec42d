"""Several workers at once, on a database that they share."""

import random
from datetime import UTC, datetime

import pytest
from django.db import OperationalError, connection

from registry import models
from registry.models import Message, MessageQuerySet, StatusEvent
from registry.registering import register_envelopes
from registry.statuses import Update, advance
from registry.tests.conftest import NOW, a_message, a_row, all_at_once, new_id

ROUNDS = 5


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


def test_a_deadlock_is_tried_again(people, monkeypatch):
    real, deadlocks = MessageQuerySet.bulk_create, [OperationalError(1213, "Deadlock found when trying to get lock")]

    def bulk_create(self, rows):
        if deadlocks:
            raise deadlocks.pop()
        return real(self, rows)

    monkeypatch.setattr(MessageQuerySet, "bulk_create", bulk_create)
    row = a_row()
    assert Message.objects.store([row]) == {row.uid}


def test_any_other_database_error_is_passed_on(people, monkeypatch):
    def bulk_create(self, rows):
        raise OperationalError(2006, "Server has gone away")

    monkeypatch.setattr(MessageQuerySet, "bulk_create", bulk_create)
    with pytest.raises(OperationalError, match="gone away"):
        Message.objects.store([a_row()])


def test_a_deadlock_at_the_commit_is_tried_again_under_fresh_numbers(people, monkeypatch):
    real, conflict = MessageQuerySet.bulk_create, models._is_conflict
    deadlocks = [OperationalError(1213, "Deadlock found when trying to get lock")]

    def bulk_create(self, rows):
        created = real(self, rows)
        if deadlocks:
            raise deadlocks.pop()
        return created

    def meanwhile(error):
        a_row(message_body="took the number").save()
        return conflict(error)

    monkeypatch.setattr(MessageQuerySet, "bulk_create", bulk_create)
    monkeypatch.setattr(models, "_is_conflict", meanwhile)
    row = a_row()
    assert Message.objects.store([row]) == {row.uid}
    assert Message.objects.count() == 2


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


def test_threads_share_one_database(shared_database):
    a_row().save()
    assert all_at_once(lambda number: Message.objects.count()) == [1, 1, 1, 1]
    assert not connection.in_atomic_block
