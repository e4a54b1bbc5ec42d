"""Celery acknowledges tasks that fail in ways it does not expect. For us that would be a lost envelope.

A real worker, a real Valkey: whatever goes wrong in the task, the envelope is delivered in the end.
"""

import time
from uuid import uuid4

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from ingest import dead_letters, progress, tasks
from ingest.queue import name, task_message
from ingest.registry_client import Outcome, RegistryAway


class Registry:
    """Fails as the test says until it is repaired."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.outcome = Outcome("stored")
        self.calls = 0
        self.taken: list[str] = []

    def register(self, envelope: str) -> Outcome:
        self.calls += 1
        if self.error:
            raise self.error
        self.taken.append(envelope)
        return self.outcome


def until(probe, within: float = 12) -> None:
    deadline = time.monotonic() + within
    while not probe():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


@pytest.fixture
def registry(own_valkey, monkeypatch, settings):
    settings.RETRY_SECONDS = 1
    registry = Registry()
    monkeypatch.setattr(tasks, "registry", lambda: registry)
    progress._stop.clear()
    app = Celery("failing", broker=own_valkey.url, set_as_current=False)
    app.conf.update(
        broker_transport="ingest.transport:Transport",
        task_default_queue=name(),
        task_acks_late=True,
        broker_transport_options={"priority_steps": [0], "visibility_timeout": 30},
    )
    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False):
        yield registry


@pytest.mark.parametrize(
    "error",
    [RegistryAway("HTTP 503"), PermissionError("worker.key"), KeyError("a bug of ours"), MemoryError()],
    ids=lambda error: type(error).__name__,
)
def test_whatever_fails_the_envelope_is_tried_again(error, registry, own_valkey):
    registry.error = error
    own_valkey.client.lpush(name(), task_message(uuid4(), "kept"))
    until(lambda: registry.calls >= 2)
    registry.error = None
    until(lambda: registry.taken == ["kept"])


def test_a_retry_that_cannot_be_queued_because_redis_is_full_loses_nothing(registry, own_valkey):
    client = own_valkey.client
    registry.error = RegistryAway("HTTP 503")
    client.lpush(name(), *(task_message(uuid4(), str(n)) for n in range(10)))
    until(lambda: registry.calls >= 1)
    client.config_set("maxmemory", "1")
    time.sleep(2.5)
    registry.error = None
    client.config_set("maxmemory", "0")
    until(lambda: sorted(set(registry.taken), key=int) == [str(n) for n in range(10)], within=20)


def test_a_dead_letter_that_cannot_be_written_is_tried_again(registry, own_valkey, monkeypatch):
    add = dead_letters.add
    refused = []

    def refuse_once(*arguments):
        if not refused:
            refused.append(arguments)
            raise ConnectionError("Redis is away")
        add(*arguments)

    monkeypatch.setattr(dead_letters, "add", refuse_once)
    registry.outcome = Outcome("rejected", "bad_seal")
    own_valkey.client.lpush(name(), task_message(uuid4(), "refused for good"))
    until(lambda: own_valkey.client.llen("deliver.dead") == 1)
    assert refused
