import base64
import json
import signal
import time
from uuid import UUID

import pytest
from cryptography import x509
from django.conf import settings

from certs_app.sealing_keys import load_private
from ingest.tests.conftest import Call
from ingest.tests.malformed import GOOD, but
from wire import envelope
from wire.messages import decode_list


def queued(valkey) -> list[dict]:
    """Open every envelope in the queue, as the registry would."""
    found = []
    for entry in valkey.client.lrange("deliver", 0, -1):
        (_, sealed), _, _ = json.loads(json.loads(entry)["body"])
        one = envelope.parse(base64.b64decode(sealed))
        signer = x509.load_pem_x509_certificates(settings.CLIENT_CERTIFICATE["certificate"].read_bytes())[0]
        one.verify(signer.public_key())
        found.append(decode_list(one.open(load_private(settings.SEALING_KEY_FILE)[one.key_id])))
    return found


def test_an_accepted_message_is_in_the_queue_before_the_answer(people, valkey, accept_path):
    (answer,) = accept_path([Call(body=but(client_reference="r1"))], people.peer("alice"))
    assert answer.status == 202
    body = answer.json()
    assert answer.headers["location"] == f"/messages/{body['id']}"
    ((message,),) = queued(valkey)
    assert message.id == UUID(body["id"])
    assert message.id.version == 7
    assert (message.client, message.message_body, message.client_reference) == ("alice", "Hello", "r1")


def test_the_queue_shows_no_plain_text(people, valkey, accept_path):
    accept_path([Call(body=but(message_body="canary-word"))], people.peer("alice"))
    (entry,) = valkey.client.lrange("deliver", 0, -1)
    assert b"canary" not in entry
    assert b"+49152" not in entry


def test_what_arrives_together_shares_an_envelope(people, valkey, accept_path):
    calls = [Call(body=but(message_body=f"number {n}")) for n in range(30)]
    answers = accept_path(calls, people.peer("alice"))
    groups = queued(valkey)
    assert [answer.status for answer in answers] == [202] * 30
    assert len(groups) < 30
    bodies = {message.id: message.message_body for group in groups for message in group}
    assert {bodies[UUID(answer.json()["id"])] for answer in answers} == {f"number {n}" for n in range(30)}


def test_a_batch_takes_the_good_and_names_the_bad(people, valkey, accept_path):
    messages = [GOOD, but(sender_number="+1"), but(message_body="third")]
    (answer,) = accept_path([Call("/submit/batch", body={"messages": messages})], people.peer("alice"))
    document = answer.json()
    assert (document["accepted"], document["rejected"]) == (2, 1)
    assert [entry["index"] for entry in document["results"]] == [0, 1, 2]
    assert document["results"][1]["code"] == "invalid_message"
    ((first, third),) = queued(valkey)
    assert [document["results"][0]["id"], document["results"][2]["id"]] == [str(first.id), str(third.id)]
    assert third.message_body == "third"


def test_a_batch_of_a_thousand_is_cut_into_envelopes_of_a_hundred(people, valkey, accept_path):
    messages = [but(message_body=str(n)) for n in range(1000)]
    (answer,) = accept_path([Call("/submit/batch", body={"messages": messages})], people.peer("alice"))
    assert answer.json()["accepted"] == 1000
    groups = queued(valkey)
    assert max(len(group) for group in groups) <= 100
    assert len({message.id for group in groups for message in group}) == 1000


def test_long_messages_keep_an_envelope_below_its_size(people, valkey, accept_path):
    messages = [but(message_body="\U0001f600" * 10_000) for _ in range(30)]
    (answer,) = accept_path([Call("/submit/batch", body={"messages": messages})], people.peer("alice"))
    assert answer.json()["accepted"] == 30
    for entry in valkey.client.lrange("deliver", 0, -1):
        (_, sealed), _, _ = json.loads(json.loads(entry)["body"])
        assert len(base64.b64decode(sealed)) <= envelope.MAX_BYTES


def keyed(key: str, **changes) -> Call:
    return Call(body=but(**changes), headers=(("Idempotency-Key", key),))


def test_a_replayed_key_gets_the_first_answer_again(people, valkey, accept_path, drf_view):
    alice = people.peer("alice")
    (first,), (again,), (third,) = (door([keyed("k1")], alice) for door in (accept_path, accept_path, drf_view))
    assert again.body == third.body == first.body
    assert again.headers["idempotency-replayed"] == third.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert len(queued(valkey)) == 1


def test_a_key_with_another_body_is_refused(people, valkey, accept_path, drf_view):
    alice = people.peer("alice")
    accept_path([keyed("k1")], alice)
    for door in (accept_path, drf_view):
        (answer,) = door([keyed("k1", message_body="other")], alice)
        assert (answer.status, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_keys_of_two_clients_do_not_meet(people, valkey, accept_path):
    (first,) = accept_path([keyed("k1")], people.peer("alice"))
    (second,) = accept_path([keyed("k1")], people.peer("dave"))
    assert second.status == 202
    assert first.json()["id"] != second.json()["id"]


def test_the_same_key_fifty_times_at_once_is_one_message(people, valkey, accept_path):
    answers = accept_path([keyed("k1")] * 50, people.peer("alice"))
    accepted = {answer.json()["id"] for answer in answers if answer.status == 202}
    assert len(accepted) == 1
    refused = [answer for answer in answers if answer.status != 202]
    assert {answer.json()["code"] for answer in refused} <= {"request_in_progress"}
    assert all("retry-after" in answer.headers for answer in refused)
    assert sum(len(group) for group in queued(valkey)) == 1


def test_a_claim_left_by_a_dead_process_is_taken_over_with_its_id(people, valkey, accept_path):
    (first,) = accept_path([keyed("k1")], people.peer("alice"))
    (name,) = valkey.client.keys("msgsys:idempotency:*")
    _, fingerprint, first_id, *_ = valkey.client.get(name).decode().split("|")
    valkey.client.set(name, f"pending|{fingerprint}|{first_id}|{int(time.time()) - 60}")
    (second,) = accept_path([keyed("k1")], people.peer("alice"))
    assert second.status == 202
    assert second.json()["id"] == first.json()["id"]


def test_a_replayed_batch_gets_the_same_ids(people, valkey, accept_path):
    call = Call("/submit/batch", body={"messages": [GOOD, GOOD, {}]}, headers=(("Idempotency-Key", "b1"),))
    alice = people.peer("alice")
    (first,), (again,) = accept_path([call], alice), accept_path([call], alice)
    assert again.body == first.body
    assert sum(len(group) for group in queued(valkey)) == 2


def test_a_full_queue_is_said_so(people, valkey, accept_path, drf_view, settings):
    settings.MAX_QUEUE_LENGTH = 1
    alice = people.peer("alice")
    accept_path([Call(body=GOOD)], alice)
    for door in (accept_path, drf_view):
        (answer,) = door([Call(body=GOOD)], alice)
        assert (answer.status, answer.json()["code"]) == (503, "queue_full")
        assert "retry-after" in answer.headers
    assert valkey.client.llen("deliver") == 1


def test_a_redis_out_of_memory_is_a_full_queue(people, own_valkey, accept_path):
    own_valkey.client.config_set("maxmemory", "1")
    (answer,) = accept_path([Call(body=GOOD)], people.peer("alice"))
    assert (answer.status, answer.json()["code"]) == (503, "queue_full")


@pytest.mark.parametrize("frozen", [True, False], ids=["hanging", "refusing"])
def test_without_redis_the_answer_is_503_within_about_a_second(frozen, people, own_valkey, accept_path, drf_view):
    alice = people.peer("alice")
    assert accept_path([Call(body=GOOD)], alice)[0].status == 202
    if frozen:
        own_valkey.process.send_signal(signal.SIGSTOP)
    else:
        own_valkey.stop()
    for door in (accept_path, drf_view):
        started = time.monotonic()
        answers = door([Call(body=GOOD), keyed("k")][: 2 if door is accept_path else 1], alice)
        assert time.monotonic() - started < 2.5
        assert {(answer.status, answer.json()["code"]) for answer in answers} == {(503, "queue_unavailable")}


def test_it_works_again_when_redis_is_back(people, own_valkey, accept_path):
    alice = people.peer("alice")
    own_valkey.stop()
    assert accept_path([Call(body=GOOD)], alice)[0].status == 503
    own_valkey.start()
    assert accept_path([Call(body=GOOD)], alice)[0].status == 202


def test_a_refused_commit_lets_go_of_its_keys(people, valkey, accept_path, settings):
    alice = people.peer("alice")
    settings.MAX_QUEUE_LENGTH = 1
    accept_path([Call(body=GOOD)], alice)
    assert accept_path([keyed("k1")], alice)[0].json()["code"] == "queue_full"
    settings.MAX_QUEUE_LENGTH = 10
    (answer,) = accept_path([keyed("k1", message_body="repaired")], alice)
    assert answer.status == 202, "nothing was accepted under this key yet"


def test_ingest_refuses_before_redis_is_full(people, own_valkey, accept_path):
    client = own_valkey.client
    alice = people.peer("alice")
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.15))
    (answer,) = accept_path([Call(body=GOOD)], alice)
    assert (answer.status, answer.json()["code"]) == (503, "queue_full")
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 2))
    assert accept_path([Call(body=GOOD)], alice)[0].status == 202


def test_the_scripts_run_on_redis_as_on_valkey(people, either_server, accept_path, drf_view, settings):
    settings.RATE_LIMIT_PER_MINUTE = 10
    alice = people.peer("alice")
    (first,), (again,) = accept_path([keyed("k1")], alice), drf_view([keyed("k1")], alice)
    assert (first.status, again.status) == (202, 202)
    assert again.body == first.body
    assert again.headers["ratelimit"] == '"client";r=8;t=12'
    assert len(queued(either_server)) == 1
