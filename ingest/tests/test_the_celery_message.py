"""The hand-built queue entry, held against the installed Celery: a real worker takes it from a real Valkey."""

import threading
import time
from uuid import uuid4

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from ingest import tasks
from ingest.queue import name, task_message
from ingest.registry_client import Outcome

RESTORE = {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}


class Recorder:
    """Stands where the registry client does: keeps what the task hands over."""

    def __init__(self) -> None:
        self.envelopes: list[str] = []
        self.called = threading.Event()

    def register(self, envelope: str) -> Outcome:
        self.envelopes.append(envelope)
        self.called.set()
        return Outcome("stored")


@pytest.fixture(params=["ingest.transport:Transport", "redis"], ids=["our transport", "the stock transport"])
def recorder(request, own_valkey, monkeypatch):
    """A real worker of this Celery, with our task, over either transport."""
    recorder = Recorder()
    monkeypatch.setattr(tasks, "registry", lambda: recorder)
    app = Celery("conformance", broker=own_valkey.url, set_as_current=False)
    app.conf.update(
        broker_transport=request.param,
        task_default_queue=name(),
        task_acks_late=True,
        broker_transport_options={"priority_steps": [0], "visibility_timeout": 2, **RESTORE},
    )
    with start_worker(app, pool="solo", perform_ping_check=False):
        yield recorder


@pytest.mark.parametrize("envelope", ["c2VhbGVk", 'a"\\\u2028\U0001f600'])
def test_a_stock_worker_takes_it_and_acknowledges_it(envelope, recorder, own_valkey):
    own_valkey.client.lpush(name(), task_message(uuid4(), envelope))
    assert recorder.called.wait(10)
    assert recorder.envelopes == [envelope]
    deadline = time.monotonic() + 5
    while own_valkey.client.hlen("unacked") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert own_valkey.client.hlen("unacked") == own_valkey.client.llen(name()) == 0
