"""Our fetch, against the installed kombu, a real Valkey, a real Redis, and entries that crash stock workers."""

import base64
import json
from uuid import uuid4

import pytest
from kombu import Connection

from ingest import delivery, holdings
from ingest.queue import name, task_message
from ingest.tests.conftest import consuming, held, kept, until

pytestmark = pytest.mark.usefixtures("registry")


@pytest.fixture
def worker(either_server, either_loop):
    with consuming(either_server) as app:
        yield app


def test_an_entry_is_in_the_queue_or_held_at_every_moment(worker, registry, either_server):
    client = either_server.client
    registry.go.clear()
    client.lpush(name(), *(task_message(uuid4(), str(n)) for n in range(2000)))
    until(lambda: registry.posts)
    for _ in range(50):
        assert kept(either_server) == 2000
    assert held(either_server) <= 800, "no more than two batches for each carrier"
    registry.go.set()
    until(lambda: client.llen(name()) + held(either_server) == 0)
    assert sorted(registry.taken, key=int) == [str(n) for n in range(2000)]


def test_what_comes_one_by_one_is_delivered_one_by_one(worker, registry, either_server):
    for n in range(20):
        either_server.client.lpush(name(), task_message(uuid4(), str(n)))
        until(lambda n=n: len(registry.taken) == n + 1)
    until(lambda: held(either_server) == 0)


def test_what_a_dead_worker_held_is_put_back(worker, registry, either_server):
    client = either_server.client
    entry = task_message(uuid4(), "left behind")
    tag = json.loads(entry)["properties"]["delivery_tag"]
    now = client.time()[0]
    client.hset(holdings.held_key("gone"), tag, entry)
    client.zadd(holdings.since_key("gone"), {tag: now - 30})
    client.zadd(holdings.workers_key(), {"gone": now - 30})
    until(lambda: registry.taken == ["left behind"])
    until(lambda: not client.exists(holdings.held_key("gone"), holdings.since_key("gone")))
    assert client.zscore(holdings.workers_key(), "gone") is None


def test_after_redis_clock_jumped_back_a_dead_worker_is_missed_as_soon_as_ever(worker, registry, either_server):
    client = either_server.client
    entry = task_message(uuid4(), "left behind")
    tag = json.loads(entry)["properties"]["delivery_tag"]
    later = client.time()[0] + 3600
    client.hset(holdings.held_key("gone"), tag, entry)
    client.zadd(holdings.since_key("gone"), {tag: later})
    client.zadd(holdings.workers_key(), {"gone": later})
    until(lambda: registry.taken == ["left behind"], within=40)
    until(lambda: client.zscore(holdings.workers_key(), "gone") is None)


def test_after_redis_clock_jumped_back_a_living_worker_keeps_what_it_holds(worker, registry, either_server):
    client = either_server.client
    entry = task_message(uuid4(), "mine")
    tag = json.loads(entry)["properties"]["delivery_tag"]
    client.hset(holdings.held_key("busy"), tag, entry)
    client.zadd(holdings.since_key("busy"), {tag: client.time()[0]})
    busy = holdings.Holdings(client, "busy")
    for _ in range(3):
        # As if it had beaten just before the jump; then it is seen by the other, and beats again.
        client.zadd(holdings.workers_key(), {"busy": client.time()[0] + 3600})
        until(lambda: client.zscore(holdings.workers_key(), "busy") <= client.time()[0] + 1)
        assert busy.beat() == []
    assert client.hexists(holdings.held_key("busy"), tag)
    assert registry.posts == []


def test_after_redis_clock_jumped_back_what_is_held_for_too_long_is_missed_all_the_same(
    worker, registry, either_server, settings
):
    client = either_server.client
    settings.VISIBILITY_TIMEOUT = 2
    entry = task_message(uuid4(), "forgotten")
    tag = json.loads(entry)["properties"]["delivery_tag"]
    client.hset(holdings.held_key("busy"), tag, entry)
    client.zadd(holdings.since_key("busy"), {tag: client.time()[0] + 3600})
    busy = holdings.Holdings(client, "busy")
    until(lambda: busy.beat() == [] and registry.taken == ["forgotten"], within=30)


def test_what_a_living_worker_holds_is_its_own_until_it_is_overdue(worker, registry, either_server):
    client = either_server.client
    for envelope, age in (("slow", -60), ("forgotten", 11)):
        entry = task_message(uuid4(), envelope)
        tag = json.loads(entry)["properties"]["delivery_tag"]
        client.hset(holdings.held_key("busy"), tag, entry)
        client.zadd(holdings.since_key("busy"), {tag: client.time()[0] - age})
    client.zadd(holdings.workers_key(), {"busy": client.time()[0] + 100})
    until(lambda: registry.taken == ["forgotten"], within=20)


def _changed(**changes) -> bytes:
    message = json.loads(task_message(uuid4(), "x"))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = message
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return json.dumps(message).encode()


BROKEN = {
    "not JSON": b"\xff\x00 not json",
    "nothing": b"",
    "not an object": b"[1, 2]",
    "no headers": _changed(headers=None),
    "headers that are none": _changed(headers=[]),
    "no id": _changed(headers__id=None),
    "no tag": _changed(properties__delivery_tag=None),
    "no delivery info": _changed(properties__delivery_info=None),
    "no properties": _changed(properties=None),
    "no body": _changed(body=None),
    "no content type": _changed(**{"content-type": None}),
    "pickle": _changed(**{"content-type": "application/x-python-serialize"}),
    "another encoding": _changed(**{"content-encoding": "binary"}),
    "compressed": _changed(headers__compression="zlib"),
    "a body that is no JSON": _changed(body="{"),
    "a body that is no list of arguments": _changed(body='{"task": "x"}'),
    "arguments of another kind": _changed(body="[[1, 2], {}, {}]"),
    "too few arguments": _changed(body='[["a"], {}, {}]'),
    "another task": _changed(headers__task="celery.chord"),
    "deep": b"[" * 5000,
    "a deep body": _changed(body="[" * 100_000),
    "a broken surrogate": _changed(body='[["id", "\\ud800"], {}, {}]'),
    "bad base64": _changed(body="a", properties__body_encoding="base64"),
    "a number of no JSON": _changed(extra=16).replace(b"16", b"0x10"),
    "a broken byte": _changed(extra="X").replace(b"X", b"\xff"),
}


def test_entries_no_worker_could_take_go_to_the_dead_letters_and_block_nothing(worker, registry, either_server):
    client = either_server.client
    for broken in BROKEN.values():
        client.lpush(name(), broken)
        client.lpush(name(), task_message(uuid4(), "behind it"))
    until(lambda: len(registry.taken) == len(BROKEN))
    until(lambda: client.hlen(f"{name()}.dead_letters") == len(BROKEN))
    until(lambda: held(either_server) + client.llen(name()) == 0)
    letters = client.hvals(f"{name()}.dead_letters")
    kept = {json.loads(letter.decode(errors="replace"))["entry"] for letter in letters}
    assert kept >= {broken.decode() for what, broken in BROKEN.items() if what not in ("not JSON", "a broken byte")}
    assert any("not json" in entry for entry in kept)


def test_a_body_in_base64_is_taken_as_celery_itself_writes_it(worker, registry, either_server):
    body = base64.b64encode(json.dumps([["id", "sealed"], {}, {}]).encode()).decode()
    either_server.client.lpush(name(), _changed(body=body, properties__body_encoding="base64"))
    until(lambda: registry.taken == ["sealed"])


def test_remote_control_reaches_the_worker(worker, registry, either_server):
    def active() -> list[list[str]]:
        (found,) = worker.control.inspect(timeout=3, limit=1).active().values()
        # What a worker of this process before had in hand when it was ended may still be among them.
        return [one["args"] for one in found if one["id"] == str(uid) and one["name"] == "ingest.deliver"]

    assert list(worker.control.inspect(timeout=3, limit=1).ping().values()) == [{"ok": "pong"}]
    registry.go.clear()
    uid = uuid4()
    either_server.client.lpush(name(), task_message(uid, "sealed"))
    until(lambda: registry.posts)
    assert active() == [[str(uid), "(sealed)"]]
    registry.go.set()
    until(lambda: held(either_server) == 0)
    assert active() == []


def test_a_worker_starts_on_a_full_redis_and_drains_it(own_valkey, either_loop, registry):
    client = own_valkey.client
    client.lpush(name(), *(task_message(uuid4(), f"{n}-" + "x" * 1000) for n in range(500)))
    client.config_set("maxmemory", "1")
    with consuming(own_valkey):
        until(lambda: len(registry.taken) == 500, within=30)
        until(lambda: held(own_valkey) == 0)
    assert client.llen(name()) == 0


def test_a_worker_that_ends_gives_everything_back(own_valkey, registry, monkeypatch):
    monkeypatch.setattr(delivery, "STOP_WITHIN", 0.5)
    registry.go.clear()
    client = own_valkey.client
    client.lpush(name(), *(task_message(uuid4(), str(n)) for n in range(1000)))
    with consuming(own_valkey):
        until(lambda: len(registry.posts) == 4)
    assert client.llen(name()) == 1000
    assert not client.exists(holdings.workers_key())
    entries = [json.loads(json.loads(entry)["body"])[0][1] for entry in client.lrange(name(), 0, -1)]
    assert sorted(entries, key=int) == [str(n) for n in range(1000)]


def test_redis_may_restart_under_the_worker(own_valkey, either_loop, registry):
    own_valkey.stop()
    own_valkey.start("--appendonly", "yes", "--appendfsync", "always")
    registry.go.clear()
    own_valkey.client.lpush(name(), *(task_message(uuid4(), str(n)) for n in range(1000)))
    with consuming(own_valkey):
        until(lambda: registry.posts)
        own_valkey.stop()
        registry.go.set()
        own_valkey.start("--appendonly", "yes", "--appendfsync", "always")
        until(lambda: set(registry.taken) == {str(n) for n in range(1000)}, within=30)
        until(lambda: held(own_valkey) + own_valkey.client.llen(name()) == 0, within=20)


def test_it_takes_no_second_queue(own_valkey):
    options = {"priority_steps": [0]}
    with Connection(own_valkey.url, transport="ingest.transport:Transport", transport_options=options) as connection:
        channel = connection.channel()
        channel.basic_consume(name(), no_ack=False, callback=None, consumer_tag="a")
        with pytest.raises(ValueError, match="no other queue"):
            channel.basic_consume("other", no_ack=False, callback=None, consumer_tag="b")
