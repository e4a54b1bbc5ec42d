"""Publishing, claiming, dying, restoring, drawn at random on a real Valkey: each envelope is in exactly one place."""

import contextlib
import json
from typing import Any
from uuid import uuid4

import pytest
import redis
from django.conf import settings as django_settings
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ingest import queue
from ingest.holdings import Holdings, held_key, since_key, workers_key
from ingest.tests.conftest import Valkey

WORKERS = ["one", "two", "three"]
worker_names = st.sampled_from(WORKERS)


class Wire:
    """A client that can lose an answer, after the server has done its work: the next one, or one after some more."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.loses = False
        self.after = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def register_script(self, script: str) -> Any:
        run = self._client.register_script(script)

        def call(**options: Any) -> Any:
            answer = run(**options)
            if self.loses and self.after:
                self.after -= 1
            elif self.loses:
                self.loses = False
                raise redis.TimeoutError("the answer was lost")
            return answer

        return call


class Machine(RuleBasedStateMachine):
    """Three workers and a queue. `published` must be found, each in one place, after every step."""

    server: Valkey

    @initialize()
    def begin(self) -> None:
        self.client = self.server.client
        self.client.flushall()
        self.published: set[str] = set()
        self.done: set[str] = set()
        self.workers = {name: self._new(name) for name in WORKERS}
        self.publish(200)
        self.claim("one", 150)

    def _new(self, name: str) -> Holdings:
        return Holdings(Wire(self.client), name)  # type: ignore[arg-type]  # as good as one

    @rule(number=st.integers(1, 300))
    def publish(self, number: int) -> None:
        ids = [str(uuid4()) for _ in range(number)]
        self.client.lpush(queue.name(), *(queue.task_message(uid, "sealed") for uid in ids))
        self.published |= set(ids)

    @rule()
    def publish_something_malformed(self) -> None:
        entry = f"malformed {uuid4()}"
        self.client.lpush(queue.name(), entry)
        self.published.add(entry)

    @rule(name=worker_names, room=st.integers(0, 400))
    def claim(self, name: str, room: int) -> None:
        self.workers[name].set_limit(room)
        self.workers[name].claim()

    @rule(name=worker_names)
    def claim_without_hearing_of_it(self, name: str) -> None:
        self.workers[name].set_limit(1000)
        self.workers[name]._client.loses = True
        with pytest.raises(redis.TimeoutError):
            self.workers[name].claim()

    @rule(name=worker_names, share=st.floats(0, 1), lost=st.booleans())
    def release(self, name: str, share: float, lost: bool) -> None:
        tags = self._some(name, share)
        self.workers[name]._client.loses = lost and bool(tags)
        self.workers[name].release(tags)
        # Told or not, the registry has them; whoever holds one again delivers it again.
        self.done |= set(tags)

    @rule(name=worker_names, share=st.floats(0, 1), lost=st.booleans())
    def give_back(self, name: str, share: float, lost: bool) -> None:
        tags = self._some(name, share)
        self.workers[name]._client.loses = lost and bool(tags)
        self.workers[name].give_back(tags)

    @rule(name=worker_names, share=st.floats(0, 0.1))
    def bury(self, name: str, share: float) -> None:
        self.workers[name].bury(dict.fromkeys(self._some(name, share), "bad_seal"))

    @rule(name=worker_names)
    def die_and_begin_anew(self, name: str) -> None:
        """Its memory is gone; its hash stays, under a heartbeat that stops."""
        self.client.zadd(workers_key(), {name: 1}, xx=True)
        self.workers[name] = self._new(name)

    @rule(name=worker_names)
    def beat_and_restore_the_dead(self, name: str) -> None:
        for dead in self.workers[name].beat():
            self.workers[name].restore(dead)

    @rule(name=worker_names)
    def pay_debts(self, name: str) -> None:
        self.workers[name].pay_debts()

    @rule(name=worker_names)
    def hold_too_long(self, name: str) -> None:
        for tag in self.client.zrange(since_key(name), 0, 50):
            self.client.zadd(since_key(name), {tag: 1})
        self.workers["one"].restore_overdue(60)

    @precondition(lambda self: hasattr(self, "workers"))
    @rule(name=worker_names)
    def leave(self, name: str) -> None:
        self.workers[name].leave()
        assert not self.client.exists(held_key(name))
        self.workers[name] = self._new(name)

    @rule(name=worker_names, after=st.integers(0, 3))
    def leave_and_be_cut_short(self, name: str, after: int) -> None:
        """Killed while it gives back: whatever it had not come to is found by the others."""
        wire = self.workers[name]._client
        wire.loses, wire.after = True, after
        with contextlib.suppress(redis.TimeoutError):
            self.workers[name].leave()
        self.workers[name] = self._new(name)

    def _some(self, name: str, share: float) -> list[str]:
        tags = list(self.workers[name]._sizes)
        return tags[: int(len(tags) * share)][:100]

    @invariant()
    def each_is_in_one_place(self) -> None:
        with self.client.pipeline(transaction=True) as look:
            look.lrange(queue.name(), 0, -1).hvals(django_settings.DEAD_LETTERS).zrange(workers_key(), 0, -1)
            for name in WORKERS:
                look.hgetall(held_key(name)).zrange(since_key(name), 0, -1)
            waiting, letters, alive, *held = look.execute()
        places = [_id(entry.decode()) for entry in waiting]
        places += [_id(json.loads(letter)["entry"]) for letter in letters]
        for name, entries, since in zip(WORKERS, held[::2], held[1::2], strict=True):
            assert set(entries) == set(since)
            assert not entries or name.encode() in alive, "who holds something can be found"
            places += [_id(entry.decode()) for entry in entries.values()]
        assert len(places) == len(set(places)), "nothing is in two places"
        assert self.published - self.done <= set(places), "nothing is nowhere"
        assert set(places) <= self.published


def _id(entry: str) -> str:
    return entry if entry.startswith("malformed") else str(json.loads(entry)["headers"]["id"])


def test_no_envelope_is_ever_nowhere_or_in_two_places(own_valkey: Valkey) -> None:
    machine = type("WithServer", (Machine,), {"server": own_valkey})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_sign_off_cut_short_leaves_nothing_that_the_others_do_not_find(own_valkey: Valkey) -> None:
    client = own_valkey.client
    client.lpush(queue.name(), *(queue.task_message(uuid4(), "sealed") for _ in range(150)))
    wire = Wire(client)
    leaving = Holdings(wire, "leaving")  # type: ignore[arg-type]  # as good as one
    assert len(leaving.claim()) == 150
    # The answer to signing off comes, that to the first hundred does not.
    wire.loses, wire.after = True, 1
    with pytest.raises(redis.TimeoutError):
        leaving.leave()
    assert client.hlen(held_key("leaving")) == 50
    other = Holdings(client, "other")
    assert other.beat() == ["leaving"]
    assert other.restore("leaving") == 50
    assert client.llen(queue.name()) == 150
