"""The suite's own parts: the same seed is the same plan, and what is wrong is seen."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ingest.tests.conftest import Valkey
from msgsys_project.environment import BASE_DIR
from tests.chaos import plan
from tests.chaos.faults import BY_NAME, KINDS
from tests.chaos.ledger import Balance, backlog, balance, what_is_in_redis


def test_a_seed_means_the_same_plan_every_time_and_another_seed_another() -> None:
    assert plan.draw(7, 60, 1000, KINDS) == plan.draw(7, 60, 1000, KINDS)
    assert plan.draw(7, 60, 1000, KINDS) != plan.draw(8, 60, 1000, KINDS)


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_has_the_faults_and_messages_asked_for(seed: int) -> None:
    scenarios = plan.draw(seed, 61, 1001, KINDS)
    assert sum(len(blow.faults) for one in scenarios for blow in one.blows) == 61
    assert sum(one.messages for one in scenarios) == 1001


@pytest.mark.parametrize("seed", range(20))
def test_two_faults_at_once_never_touch_the_same_thing(seed: int) -> None:
    blows = [blow for one in plan.draw(seed, 200, 1, KINDS) for blow in one.blows]
    pairs = [blow.faults for blow in blows if len(blow.faults) == 2]
    assert pairs
    for first, second in pairs:
        assert not first.kind.touches & second.kind.touches


def test_a_long_plan_leaves_no_kind_of_fault_out() -> None:
    drawn = Counter(one.name for each in plan.draw(1, 500, 1, KINDS) for blow in each.blows for one in blow.faults)
    assert set(drawn) == set(BY_NAME)


def test_one_kind_of_fault_alone_can_be_asked_for() -> None:
    scenarios = plan.draw(1, 5, 1, plan.kinds(["kill-worker"]))
    assert {one.name for each in scenarios for blow in each.blows for one in blow.faults} == {"kill-worker"}


def test_a_name_that_is_no_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="no fault and no group is called earthquake"):
        plan.kinds(["earthquake"])


def test_every_fault_is_in_the_document() -> None:
    document = (BASE_DIR / "docs" / "chaos.md").read_text(encoding="utf-8")
    assert [name for name in BY_NAME if f"`{name}`" not in document] == []


def test_sums_that_agree() -> None:
    found = balance(["a", "b", "c", "d"], Counter("ab"), waiting=["c"], dead=["d"])
    assert found == Balance(accepted=4, stored=2, waiting=1, dead=1)
    assert found.violations() == []


def test_queued_and_stored_at_once_is_one_message_delivered_again() -> None:
    assert balance(["a"], Counter("a"), waiting=["a"], dead=[]) == Balance(accepted=1, stored=1, waiting=0, dead=0)


def test_what_is_wrong_is_named() -> None:
    found = balance(["a", "b", "b"], Counter({"b": 1, "c": 2}), waiting=[], dead=[])
    assert found.violations() == [
        "1 accepted, but nowhere: a",
        "2 more than once: b, c",
        "1 stored, but nobody was told this id: c",
    ]


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[redis.Redis]:
    server = Valkey(tmp_path)
    server.start()
    with server.client as client:
        yield client
    server.stop()


def test_kombus_way_of_holding_is_understood(queue: redis.Redis) -> None:
    queue.lpush("deliver", b'{"queued": 1}')
    queue.hset("unacked", "tag", b'[{"held": 1},"","deliver"]')
    queue.lpush("deliver.dead", json.dumps({"id": "x", "code": "bad_seal", "at": 1, "envelope": "AAAA"}))
    there = what_is_in_redis(queue)
    assert (there.queued, there.held, there.dead) == ([b'{"queued": 1}'], [b'{"held": 1}'], [b"AAAA"])
    assert backlog(queue) == 2


def test_our_own_way_of_holding_is_understood_also_of_a_worker_that_is_gone(queue: redis.Redis) -> None:
    queue.zadd("deliver.workers", {"one": 1})
    for worker in ("one", "gone"):
        queue.hset(f"deliver.held:{worker}", f"tag of {worker}", worker.encode())
        queue.zadd(f"deliver.held:{worker}:since", {f"tag of {worker}": 1})
    letter = {"id": "x", "code": "bad_seal", "at": 1, "entry": '{"dead": 1}'}
    queue.hset("deliver.dead_letters", "x", json.dumps(letter))
    there = what_is_in_redis(queue)
    assert sorted(there.held) == [b"gone", b"one"]
    assert there.dead == [b'{"dead": 1}']
    assert len(there) == 2
    assert backlog(queue) == 1, "the quick count knows the workers that are known"
