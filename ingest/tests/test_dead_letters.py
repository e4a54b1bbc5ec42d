"""Dead letters in a real Valkey: nothing is lost between the queue and the hash, whoever is killed in between."""

import json
import threading
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from ingest import dead_letters, metrics
from ingest.dead_letters import QueueFull
from ingest.queue import name, sync_queue, task_message

HASH, FORMER = "deliver.dead_letters", "deliver.dead"
ENVELOPE = "c2VhbGVk"


def put(client, code="bad_seal", at=1_700_000_000, letter_id=None, envelope=ENVELOPE) -> str:
    """Write a letter as the contract says; return its id."""
    letter_id = letter_id or str(uuid4())
    value = {"id": letter_id, "code": code, "at": at, "entry": task_message(letter_id, envelope).decode()}
    client.hset(HASH, letter_id, json.dumps(value))
    return letter_id


def requeue(ids) -> list[str]:
    return [moved for chunk in dead_letters.requeue(ids) for moved in chunk.moved]


def queued(client) -> list[bytes]:
    """The queue's entries in the order in which a worker takes them."""
    return client.lrange(name(), 0, -1)[::-1]


def test_a_letter_goes_back_into_the_queue_byte_for_byte(either_server):
    uid = uuid4()
    dead_letters.add(str(uid), ENVELOPE, "bad_seal")
    assert requeue([str(uid)]) == [str(uid)]
    assert queued(either_server.client) == [task_message(uid, ENVELOPE)]
    assert dead_letters.count() == 0


def test_letters_are_requeued_in_the_order_they_were_named(valkey):
    ids = [put(valkey.client, at=n) for n in range(50)]
    assert requeue(ids) == ids
    assert queued(valkey.client) == [task_message(one, ENVELOPE) for one in ids]


def test_the_same_envelope_rejected_twice_is_one_letter(valkey):
    uid = str(uuid4())
    before = metrics.DEAD_LETTERS_ADDED.labels("bad_seal")._value.get()
    for _ in range(2):
        dead_letters.add(uid, ENVELOPE, "bad_seal")
    assert dead_letters.count() == 1
    assert metrics.DEAD_LETTERS_ADDED.labels("bad_seal")._value.get() == before + 1


def test_a_code_this_version_does_not_know_is_kept_but_makes_no_time_series(valkey):
    dead_letters.add(str(uuid4()), ENVELOPE, "moon_phase")
    (letter,) = dead_letters.iterate()
    assert letter.code == "moon_phase"
    shown = generate_latest().decode()
    assert "moon_phase" not in shown
    assert 'msgsys_dead_letters_total{code="other"}' in shown


def test_every_letter_is_met_and_the_order_is_that_of_time(valkey):
    ids = [put(valkey.client, at=at) for at in (30, 10, 20)] + [put(valkey.client, at=1000 + n) for n in range(500)]
    assert {letter.id for letter in dead_letters.iterate()} == set(ids)
    assert [letter.at for letter in dead_letters.oldest(dead_letters.iterate(), 4)] == [10, 20, 30, 1000]
    assert [letter.at for letter in dead_letters.newest(dead_letters.iterate(), 2)] == [1499, 1498]
    assert [letter.id for letter in dead_letters.oldest(dead_letters.iterate())] == [ids[1], ids[2], ids[0], *ids[3:]]


def test_requeueing_stops_at_the_queues_limit_and_loses_nothing(valkey, settings):
    settings.MAX_QUEUE_LENGTH = 30
    ids = [put(valkey.client, at=n) for n in range(50)]
    chunks = dead_letters.requeue(ids)
    moved = next(chunks).moved + next(chunks).moved
    with pytest.raises(QueueFull):
        next(chunks)
    assert moved == ids[:30]
    assert valkey.client.llen(name()) == 30
    assert dead_letters.count() == 20
    assert {letter.id for letter in dead_letters.iterate()} == set(ids[30:])


def test_a_redis_without_memory_refuses_and_the_letter_stays(either_server):
    uid = put(either_server.client)
    sync_queue().client.ping()
    either_server.client.config_set("maxmemory", "1")
    with pytest.raises(Exception, match=r"OOM|maxmemory"):
        requeue([uid])
    either_server.client.config_set("maxmemory", "0")
    assert dead_letters.count() + either_server.client.llen(name()) == 1


def test_two_who_requeue_at_once_queue_each_letter_once(valkey):
    ids = [put(valkey.client, at=n) for n in range(400)]
    moved: list[list[str]] = []
    threads = [threading.Thread(target=lambda: moved.append(requeue(ids))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(moved[0] + moved[1]) == sorted(ids)
    assert valkey.client.llen(name()) == 400


OBSTACLES = {
    "an entry no worker could take": ("malformed-0123", {"entry": "x"}, "no message a worker could take"),
    "no entry": ("id-1", {}, "damaged"),
    "no Celery message": ("id-1", {"entry": "[1, 2]"}, "damaged"),
    "no arguments": ("id-1", {"entry": '{"body": "[]", "properties": {"delivery_tag": "id-1"}}'}, "damaged"),
    "not JSON at all": ("id-1", None, "damaged"),
    "somebody else's entry": ("id-1", {"entry": task_message("id-2", ENVELOPE).decode()}, "another id"),
}


@pytest.mark.parametrize(("letter_id", "value", "why"), OBSTACLES.values(), ids=OBSTACLES)
def test_what_no_worker_could_take_is_not_requeued_and_says_why(letter_id, value, why, valkey):
    valkey.client.hset(HASH, letter_id, b"\xff\x00" if value is None else json.dumps(value))
    good = put(valkey.client)
    (chunk,) = dead_letters.requeue([letter_id, good])
    assert chunk.moved == [good]
    assert why in chunk.refused[letter_id]
    assert dead_letters.count() == 1
    assert [letter.id for letter in dead_letters.iterate()] == [letter_id], "it is still listed"


def test_an_entry_that_is_no_text_is_listed_with_its_code(valkey):
    # As the worker's script writes it: cjson passes bytes on as they are.
    valkey.client.hset(
        HASH, "malformed-1", b'{"at":5,"code":"malformed_entry","entry":"\xff\\u0000","id":"malformed-1"}'
    )
    (letter,) = dead_letters.iterate()
    assert (letter.id, letter.code, letter.at) == ("malformed-1", "malformed_entry", 5)


def test_what_was_dropped_is_gone_and_the_rest_is_not(valkey):
    gone, kept = put(valkey.client), put(valkey.client)
    assert sum(dead_letters.drop([gone, "never-there"])) == 1
    assert [letter.id for letter in dead_letters.iterate()] == [kept]


# -- the list of older versions


def former(client, *items) -> None:
    for item in items:
        client.lpush(FORMER, item if isinstance(item, bytes) else json.dumps(item))


def test_letters_of_an_older_version_can_be_requeued(either_server):
    uid = str(uuid4())
    former(either_server.client, {"id": uid, "code": "bad_seal", "at": 7, "envelope": ENVELOPE})
    assert dead_letters.adopt() == 1
    (letter,) = dead_letters.iterate()
    assert (letter.id, letter.code, letter.at) == (uid, "bad_seal", 7)
    assert requeue([uid]) == [uid]
    assert queued(either_server.client) == [task_message(uid, ENVELOPE)]
    assert not either_server.client.exists(FORMER)


def test_entries_an_older_version_could_not_take_keep_every_byte(either_server):
    raw = b'{"code":"malformed_entry","at":9,"envelope":"\xff\\u0000 not json"}'
    former(either_server.client, raw, b"\xfe no letter at all")
    assert dead_letters.adopt() == 2
    found = {letter.id: letter for letter in dead_letters.iterate()}
    assert all(one.startswith("malformed-") and letter.code == "malformed_entry" for one, letter in found.items())
    kept = [json.loads(value)["entry"].encode(errors="surrogateescape") for value in either_server.client.hvals(HASH)]
    assert sorted(kept) == [b"\xfe no letter at all", b"\xff\x00 not json"]


def test_a_kill_in_the_middle_of_adopting_loses_and_doubles_nothing(valkey):
    ids = [str(uuid4()) for _ in range(100)]
    former(valkey.client, *({"id": one, "code": "bad_seal", "at": 1, "envelope": ENVELOPE} for one in ids))
    # One chunk went, then the worker was killed; another begins, and meets what was moved and what was not.
    script = sync_queue().client.register_script(dead_letters.ADOPT)
    items = valkey.client.lrange(FORMER, -dead_letters.CHUNK, -1)
    arguments = [part for item in reversed(items) for part in (item, *dead_letters._adopted(item))]
    assert script(keys=[HASH, FORMER], args=arguments) == dead_letters.CHUNK
    assert script(keys=[HASH, FORMER], args=arguments) == 0, "the same chunk again moves nothing"
    assert dead_letters.adopt() == 80
    assert {letter.id for letter in dead_letters.iterate()} == set(ids)


def test_two_workers_that_start_at_once_adopt_each_letter_once(valkey):
    ids = [str(uuid4()) for _ in range(300)]
    former(valkey.client, *({"id": one, "code": "bad_seal", "at": 1, "envelope": ENVELOPE} for one in ids))
    moved: list[int] = []
    threads = [threading.Thread(target=lambda: moved.append(dead_letters.adopt())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(moved) == 300
    assert {letter.id for letter in dead_letters.iterate()} == set(ids)


# -- the gauge


def test_the_gauge_is_read_from_redis_and_absent_without_it(own_valkey):
    registry = CollectorRegistry()
    registry.register(metrics.DeadLetters(dead_letters.count))
    put(own_valkey.client)
    assert "msgsys_dead_letters 1.0" in generate_latest(registry).decode()
    # The counter's name without _total is the gauge's: in the text format these are two metrics.
    both = (generate_latest(registry) + generate_latest()).decode().splitlines()
    assert [line for line in both if line.startswith("# TYPE msgsys_dead_letters")][:2] == [
        "# TYPE msgsys_dead_letters gauge",
        "# TYPE msgsys_dead_letters_total counter",
    ]
    own_valkey.stop()
    assert "msgsys_dead_letters " not in generate_latest(registry).decode()
