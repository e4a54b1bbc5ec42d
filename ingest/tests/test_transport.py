"""Our fetch, against the installed kombu, a real Valkey and entries that crash stock workers."""

import json
import threading
import time
from uuid import uuid4

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from ingest import tasks
from ingest.queue import name, task_message
from ingest.registry_client import Outcome


class Held:
    """A registry that holds every envelope until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.envelopes: list[str] = []

    def register(self, envelope: str) -> Outcome:
        self.envelopes.append(envelope)
        self.go.wait(10)
        return Outcome("stored")


def until(probe, within: float = 8) -> None:
    deadline = time.monotonic() + within
    while not probe():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


@pytest.fixture
def worker(either_server, monkeypatch):
    held = Held()
    monkeypatch.setattr(tasks, "registry", lambda: held)
    app = Celery("transport", broker=either_server.url, set_as_current=False)
    app.conf.update(
        broker_transport="ingest.transport:Transport",
        task_default_queue=name(),
        task_acks_late=True,
        worker_prefetch_multiplier=4,
        broker_transport_options={
            "priority_steps": [0],
            "visibility_timeout": 1,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        },
    )
    with start_worker(app, pool="solo", perform_ping_check=False):
        yield held
        held.go.set()


def test_an_entry_is_in_the_queue_or_recorded_at_every_moment(worker, either_server):
    client = either_server.client
    client.lpush(name(), *(task_message(uuid4(), str(n)) for n in range(20)))
    until(lambda: worker.envelopes)
    assert client.llen(name()) + client.hlen("unacked") == 20
    assert 1 <= client.hlen("unacked") <= 4, "no more than the prefetch is claimed"
    assert client.zcard("unacked_index") == client.hlen("unacked")
    worker.go.set()
    until(lambda: client.llen(name()) + client.hlen("unacked") == 0)
    assert sorted(set(worker.envelopes), key=int) == [str(n) for n in range(20)]


def test_what_a_dead_worker_had_recorded_is_delivered_again(worker, either_server):
    worker.go.set()
    client = either_server.client
    entry = task_message(uuid4(), "left behind").decode()
    tag = json.loads(entry)["properties"]["delivery_tag"]
    client.hset("unacked", tag, f'[{entry},"","{name()}"]')
    client.zadd("unacked_index", {tag: time.time() - 60})
    until(lambda: "left behind" in worker.envelopes)
    until(lambda: client.hlen("unacked") == 0)


BROKEN = {
    "not JSON": b"\xff\x00 not json",
    "not an object": b"[1, 2]",
    "no headers": b'{"body": "[]", "properties": {"delivery_tag": "t", "delivery_info": {}}}',
    "no tag": json.dumps({**json.loads(task_message(uuid4(), "x")), "properties": {"delivery_info": {}}}).encode(),
    "no body": json.dumps({**json.loads(task_message(uuid4(), "x")), "body": None}).encode(),
    "no content type": json.dumps({**json.loads(task_message(uuid4(), "x")), "content-type": None}).encode(),
    "deep": b"[" * 5000,
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_an_entry_no_worker_could_take_goes_to_the_dead_letters_and_blocks_nothing(broken, worker, either_server):
    worker.go.set()
    client = either_server.client
    client.lpush(name(), broken)
    client.lpush(name(), task_message(uuid4(), "behind it"))
    until(lambda: worker.envelopes == ["behind it"])
    assert client.llen(f"{name()}.dead") == 1
    assert b"malformed_entry" in client.lindex(f"{name()}.dead", 0)
    until(lambda: client.hlen("unacked") == 0)
