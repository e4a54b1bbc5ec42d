"""Batches, the breaker, and what becomes of each envelope: a real worker, a real Valkey, a registry that misbehaves."""

import json
import signal
import time
from uuid import uuid4

import pytest

from ingest import delivery, holdings
from ingest.queue import name, task_message
from ingest.registry_client import RegistryAway, RegistryRefusesUs
from ingest.tests.conftest import consuming, held, kept, until


@pytest.fixture
def worker(own_valkey, registry):
    with consuming(own_valkey) as app:
        yield app


def put(server, *envelopes: str) -> list[str]:
    """Queue envelopes, the first to be taken first; return their ids."""
    ids = [uuid4() for _ in envelopes]
    server.client.lpush(name(), *(task_message(uid, one) for uid, one in zip(ids, envelopes, strict=True)))
    return [str(uid) for uid in ids]


def letters(server) -> dict[str, str]:
    found = [json.loads(letter) for letter in server.client.hvals(f"{name()}.dead_letters")]
    return {json.loads(json.loads(letter["entry"])["body"])[0][1]: letter["code"] for letter in found}


def test_a_backlog_goes_in_batches_of_a_hundred(worker, registry, own_valkey):
    put(own_valkey, *(str(n) for n in range(1000)))
    until(lambda: len(registry.taken) == 1000)
    assert len(registry.posts) <= 20
    assert max(len(post) for post in registry.posts) == 100


def test_a_batch_has_at_most_a_mebibyte(worker, registry, own_valkey):
    registry.go.clear()
    put(own_valkey, *(f"{n}-" + "x" * 400_000 for n in range(20)))
    until(lambda: len(registry.posts) == 4)
    registry.go.set()
    until(lambda: len(registry.taken) == 20)
    assert max(sum(map(len, post)) for post in registry.posts) <= 1 << 20


def test_an_envelope_above_a_mebibyte_goes_alone(worker, registry, own_valkey):
    put(own_valkey, "small", "x" * 1_500_000, "another")
    until(lambda: len(registry.taken) == 3)


@pytest.mark.parametrize(
    "error",
    [RegistryAway("HTTP 503"), RegistryRefusesUs("HTTP 403"), PermissionError("worker.key"), KeyError("a bug of ours")],
    ids=lambda error: type(error).__name__,
)
def test_whatever_fails_everything_is_kept_and_tried_again(error, worker, registry, own_valkey):
    registry.error = error
    put(own_valkey, *(str(n) for n in range(500)))
    until(lambda: len(registry.posts) >= 2)
    assert kept(own_valkey) == 500
    registry.error = None
    until(lambda: sorted(registry.taken, key=int) == [str(n) for n in range(500)])
    until(lambda: own_valkey.client.llen(name()) + held(own_valkey) == 0)
    assert letters(own_valkey) == {}


def test_while_the_registry_is_away_one_batch_is_tried_per_period(worker, registry, own_valkey):
    registry.error = RegistryAway("away")
    put(own_valkey, *(str(n) for n in range(5000)))
    until(lambda: registry.posts)
    time.sleep(0.5)
    before = len(registry.posts)
    time.sleep(3.2)
    assert 2 <= len(registry.posts) - before <= 4
    assert kept(own_valkey) == 5000
    registry.error = None
    until(lambda: len(registry.taken) == 5000)


def test_they_are_given_back_in_their_order(worker, registry, own_valkey):
    registry.error = RegistryAway("away")
    put(own_valkey, *(str(n) for n in range(300)))
    until(lambda: len(registry.posts) >= 2 and own_valkey.client.llen(name()) == 300)
    waiting = [json.loads(json.loads(entry)["body"])[0][1] for entry in own_valkey.client.lrange(name(), 0, -1)]
    # Batches that failed at one moment may have changed places; no single envelope has.
    assert sorted(waiting, key=int) == [str(n) for n in range(300)]
    assert waiting[-1] in {"0", "100", "200"}


def test_the_registry_says_when_to_come_back(worker, registry, own_valkey, settings):
    settings.RETRY_SECONDS = 60
    registry.error = RegistryAway("HTTP 429", retry_after=1)
    put(own_valkey, "sealed")
    until(lambda: registry.posts)
    registry.error = None
    until(lambda: registry.taken == ["sealed"], within=5)


def test_what_the_registry_rejects_goes_to_the_dead_letters_with_its_reason_and_holds_up_nobody(
    worker, registry, own_valkey
):
    registry.rejects = {"7": "bad_seal", "11": "bad_signature"}
    put(own_valkey, *(str(n) for n in range(100)))
    until(lambda: len(registry.taken) == 98)
    until(lambda: letters(own_valkey) == registry.rejects)
    until(lambda: held(own_valkey) == 0)


def test_an_envelope_on_which_the_registry_fails_is_found_set_aside_and_tried_again(worker, registry, own_valkey):
    registry.chokes_on = {"42", "77"}
    put(own_valkey, *(str(n) for n in range(100)))
    until(lambda: len(registry.taken) == 98)
    put(own_valkey, "later")
    until(lambda: "later" in registry.taken)
    assert held(own_valkey) == 2
    time.sleep(1.5)
    registry.chokes_on = set()
    until(lambda: {"42", "77"} <= set(registry.taken))
    until(lambda: held(own_valkey) == 0)
    assert len(registry.taken) == len(set(registry.taken)) == 101


def test_a_known_bad_envelope_that_is_tried_again_stops_nobody(worker, registry, own_valkey):
    registry.chokes_on = {"bad"}
    put(own_valkey, "bad", "good")
    until(lambda: registry.taken == ["good"])
    until(lambda: registry.posts.count(["bad"]) >= 4)
    assert delivery.current().breaker.state == "closed"
    assert held(own_valkey) == 1
    put(own_valkey, "later")
    until(lambda: "later" in registry.taken, within=0.9)


def test_bad_envelopes_at_the_head_of_the_queue_block_it_for_a_while_only(worker, registry, own_valkey):
    bad = [f"bad {n}" for n in range(12)]
    registry.chokes_on = set(bad)
    put(own_valkey, *bad, *(str(n) for n in range(500)))
    until(lambda: len(set(registry.taken)) == 500)


def test_a_pause_is_a_second_at_least(worker, registry, own_valkey):
    registry.error = RegistryAway("HTTP 429", retry_after=0)
    put(own_valkey, "sealed")
    until(lambda: registry.posts)
    time.sleep(1.5)
    assert len(registry.posts) <= 3


def test_too_many_bad_envelopes_are_the_registrys_fault(worker, registry, own_valkey, monkeypatch):
    monkeypatch.setattr(delivery, "MAX_ASIDE", 5)
    registry.chokes_on = {str(n) for n in range(10)}
    put(own_valkey, *(str(n) for n in range(100)))
    until(lambda: delivery.current().breaker.state != "closed")
    until(lambda: kept(own_valkey) == own_valkey.client.llen(name()))
    registry.chokes_on = set()
    until(lambda: kept(own_valkey) == 0)
    assert sorted(set(registry.taken), key=int) == [str(n) for n in range(100)]


def test_a_registry_that_fails_on_everything_is_away(worker, registry, own_valkey):
    everything = [str(n) for n in range(200)]
    registry.chokes_on = set(everything)
    put(own_valkey, *everything)
    until(lambda: own_valkey.client.llen(name()) == 200 and delivery.current().breaker.state != "closed")
    assert len(registry.posts) < 100
    registry.chokes_on = set()
    until(lambda: sorted(registry.taken, key=int) == everything)


def test_what_redis_could_not_be_told_is_told_later(worker, registry, own_valkey):
    """Stored, but Redis hangs before it is let go of: no error, no second delivery, nothing left over."""
    registry.go.clear()
    put(own_valkey, *(str(n) for n in range(10)))
    until(lambda: registry.posts)
    own_valkey.process.send_signal(signal.SIGSTOP)
    registry.go.set()
    until(lambda: len(registry.taken) == 10)
    time.sleep(6)
    own_valkey.process.send_signal(signal.SIGCONT)
    until(lambda: held(own_valkey) == 0, within=20)
    assert len(registry.taken) == 10


def test_memory_stays_flat_whatever_the_backlog(worker, registry, own_valkey):
    registry.error = RegistryAway("away")
    put(own_valkey, *("x" * 1000 for _ in range(20_000)))
    # The first four failed side by side; the others are tries at a time of their own.
    until(lambda: len(registry.posts) >= 6)
    assert holdings.mine().count() <= 100
    assert held(own_valkey) <= 100
