"""One request of a client, carried twice under two ids, is one message; another message is never taken for it."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError

from registry.models import Alias, Message
from registry.storing import store
from registry.tests.conftest import NOW, Column, a_message, an_arrival, new_id

KEY = "ab" * 32
FIRST = datetime(2026, 5, 4, 12, tzinfo=UTC)


def again(**changes):
    return a_message(**{"idempotency": KEY, "id": new_id(FIRST + timedelta(hours=1)), **changes})


@pytest.fixture
def first(ingest, register):
    register(ingest.envelope(a_message(idempotency=KEY, id=new_id(FIRST))))
    return Message.objects.get()


def test_the_same_request_under_another_id_is_one_row(first, ingest, register):
    assert register(ingest.envelope(again()))[0]["outcome"] == "duplicate"
    assert Message.objects.get().uid == first.uid


def test_the_same_request_twice_in_one_envelope_is_one_row(ingest, register):
    register(ingest.envelope(again(), again(), a_message(message_body="beside")))
    assert Message.objects.count() == 2


def test_a_repeated_request_leaves_all_beside_it_stored_once(first, ingest, register):
    # More than one INSERT takes: what the first ones gave is rolled back and stored again.
    late = [again(id=new_id(FIRST + timedelta(hours=2 + number))) for number in range(2)]
    blobs = [
        ingest.envelope(*(a_message(message_body=f"{half} {n}") for n in range(99)), late[half]) for half in (0, 1)
    ]
    register(*blobs)
    assert Message.objects.count() == 1 + 2 * 99
    assert len({message.message_body for message in Message.objects.all()}) == 1 + 2 * 99
    assert Message.objects.filter(uid__in=[message.id for message in late]).count() == 0


def test_another_clients_same_key_is_another_message(first, ingest, register):
    assert register(ingest.envelope(again(client="dora")))[0]["outcome"] == "stored"
    assert Message.objects.count() == 2


@pytest.mark.parametrize("change", [{"message_body": "another"}, {"sender_number": "+14155552671"}])
def test_another_message_under_a_key_that_ingest_forgot_is_not_lost(first, ingest, register, change):
    message = again(**change)
    assert register(ingest.envelope(message))[0]["outcome"] == "stored"
    assert Message.objects.filter(uid=message.id, idempotency=None).count() == 1
    assert register(ingest.envelope(message))[0]["outcome"] == "duplicate"


def test_the_same_text_a_day_later_is_a_new_message(first, ingest, register):
    assert register(ingest.envelope(again(id=new_id(FIRST + timedelta(hours=24)))))[0]["outcome"] == "stored"
    assert Message.objects.count() == 2


def test_what_cannot_be_compared_is_kept(first, ingest, register):
    Column(first).write(b"damaged")
    assert register(ingest.envelope(again()))[0]["outcome"] == "stored"


def test_a_broken_rule_of_the_table_is_never_taken_for_a_duplicate(db):
    with pytest.raises(IntegrityError):
        store([an_arrival(certificate=None)], NOW)
    assert Message.objects.count() == Alias.objects.count() == 0
