"""Celery's events are for whoever watches; what is watched does not wait for them."""

import base64
import json
import signal
from uuid import uuid4

import pytest

from ingest import delivery, holdings
from ingest.queue import name, task_message
from ingest.tests.conftest import consuming, held, until


@pytest.fixture
def watched(own_valkey, either_loop, registry):
    """A worker of which somebody wants to see each task."""
    with consuming(own_valkey, events=True) as app:
        yield app


def put(server, *envelopes: str) -> None:
    server.client.lpush(name(), *(task_message(uuid4(), one) for one in envelopes))


def seen(listener) -> set[str]:
    """Return the kinds of events that come within a moment."""
    found = set()
    while message := listener.get_message(timeout=0.5):
        data = message["data"] if isinstance(message["data"], bytes) else b""
        kinds = ("task-received", "task-started", "task-succeeded", "task-retried")
        found |= {kind for kind in kinds if kind.encode() in _body(data)}
    return found


def _body(data: bytes) -> bytes:
    return base64.b64decode(json.loads(data)["body"]) if data else b""


def test_whoever_watches_sees_each_envelope_on_its_way(watched, registry, own_valkey):
    with own_valkey.client.pubsub() as listener:
        listener.psubscribe("*celeryev*")
        put(own_valkey, "sealed")
        kinds: set[str] = set()
        until(lambda: kinds.update(seen(listener)) or len(kinds) == 3)
    assert kinds == {"task-received", "task-started", "task-succeeded"}


def test_while_redis_hangs_no_delivery_waits_for_its_events(watched, registry, own_valkey):
    registry.go.clear()
    put(own_valkey, *(str(n) for n in range(1000)))
    until(lambda: holdings.mine().count() == 800)
    own_valkey.process.send_signal(signal.SIGSTOP)
    try:
        registry.go.set()
        until(lambda: len(registry.taken) == 800, within=30)
    finally:
        own_valkey.process.send_signal(signal.SIGCONT)
    until(lambda: held(own_valkey) + own_valkey.client.llen(name()) == 0, within=30)


def test_after_redis_hung_events_come_again(watched, registry, own_valkey):
    own_valkey.process.send_signal(signal.SIGSTOP)
    try:
        events = delivery.current().events
        events.tell("task-received", uuid=str(uuid4()))
        until(lambda: not events._waiting, within=30)
    finally:
        own_valkey.process.send_signal(signal.SIGCONT)
    with own_valkey.client.pubsub() as listener:
        listener.psubscribe("*celeryev*")

        def told() -> bool:
            put(own_valkey, "sealed")
            return "task-succeeded" in seen(listener)

        until(told, within=30)
