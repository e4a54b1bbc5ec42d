from datetime import UTC, datetime

import pytest

from registry.models import REGISTERED, Message
from registry.tests.conftest import BODY, SENDER, a_message, new_id, whole_table
from wire.ids import received_at


def test_a_message_is_stored_as_it_was_sent(ingest, register):
    sent = a_message(client_reference="r1", sent_at=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), idempotency="ab" * 32)
    (outcome,) = register(ingest.envelope(sent))
    assert outcome["outcome"] == "stored"
    message = Message.objects.get(uid=sent.id)
    assert (message.client, message.certificate, message.status) == ("alice", "a1", REGISTERED)
    assert (message.sender_number, message.message_body, message.client_reference) == (SENDER, BODY, "r1")
    assert (message.sent_at, message.received_at) == (sent.sent_at, received_at(sent.id))
    assert message.idempotency == bytes.fromhex("ab" * 32)


def test_the_outcome_names_the_envelope(ingest, register):
    blob = ingest.envelope()
    (outcome,) = register(blob)
    assert outcome["id"].replace("-", "") == blob[6:22].hex()


def test_the_row_holds_no_plain_text(ingest, register):
    register(ingest.envelope(a_message(message_body="body-canary", client_reference="reference-canary")))
    table = whole_table()
    assert b"canary" not in table
    assert SENDER[1:].encode() not in table


def test_repeating_an_envelope_stores_nothing_twice(ingest, register):
    blob = ingest.envelope(a_message(), a_message())
    assert [register(blob)[0]["outcome"] for _ in range(3)] == ["stored", "duplicate", "duplicate"]
    assert Message.objects.count() == 2


def test_the_same_envelope_twice_in_one_request_is_stored_once(ingest, register):
    blob = ingest.envelope()
    assert {outcome["outcome"] for outcome in register(blob, blob)} == {"stored"}
    assert Message.objects.count() == 1


def test_of_a_partly_known_envelope_the_rest_is_stored(ingest, register):
    known, new = a_message(message_body="known"), a_message(message_body="new")
    register(ingest.envelope(known))
    (outcome,) = register(ingest.envelope(known, new))
    assert outcome["outcome"] == "stored"
    assert {message.message_body for message in Message.objects.all()} == {"known", "new"}


def test_a_full_envelope_of_the_longest_messages_is_stored(ingest, register):
    content = [a_message(message_body="\U0001f600" * 10_000) for _ in range(12)]
    content += [a_message(message_body=f"short {number}") for number in range(88)]
    register(ingest.envelope(*content))
    assert Message.objects.count() == 100
    assert Message.objects.get(uid=content[0].id).message_body == "\U0001f600" * 10_000


def test_a_hundred_envelopes_go_into_one_request(ingest, register):
    outcomes = register(*(ingest.envelope(a_message(), a_message()) for _ in range(100)))
    assert {outcome["outcome"] for outcome in outcomes} == {"stored"}
    assert Message.objects.count() == 200


def test_ten_thousand_messages_go_into_one_request(ingest, register):
    blobs = [ingest.envelope(*(a_message(message_body="x") for _ in range(100))) for _ in range(100)]
    assert {outcome["outcome"] for outcome in register(*blobs)} == {"stored"}
    assert {outcome["outcome"] for outcome in register(*blobs)} == {"duplicate"}
    assert Message.objects.count() == 10_000


def test_times_keep_their_milliseconds(ingest, register):
    moment = datetime(2026, 3, 29, 1, 59, 59, 999000, UTC)
    uid = new_id(moment)
    register(ingest.envelope(a_message(id=uid)))
    assert Message.objects.get(uid=uid).received_at == moment


@pytest.mark.parametrize("year", [1, 999, 1970, 9999])
def test_any_year_can_be_stored_as_the_time_of_sending(ingest, register, year):
    moment = datetime(year, 1, 1, tzinfo=UTC)
    sent = a_message(sent_at=moment)
    assert register(ingest.envelope(sent))[0]["outcome"] == "stored"
    assert Message.objects.get(uid=sent.id).sent_at == moment


def test_a_new_numbering_plan_is_not_the_registrys_to_judge(ingest, register):
    assert register(ingest.envelope(a_message(sender_number="+999123456789")))[0]["outcome"] == "stored"
