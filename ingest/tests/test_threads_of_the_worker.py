"""A thread of the worker that ends unnoticed would leave a worker that only looks alive."""

import threading
import time
from uuid import uuid4

import pytest
from celery import Celery
from celery.exceptions import WorkerShutdown
from celery.worker import WorkController

from ingest import delivery, holdings, progress
from ingest.queue import name, task_message
from ingest.registry_client import RegistryAway
from ingest.tests.conftest import consuming, held, until


@pytest.fixture
def worker(own_valkey, registry):
    with consuming(own_valkey) as app:
        yield app


@pytest.fixture
def consumes(monkeypatch):
    """Say what Celery's own process says, and a worker in a test's does not."""
    monkeypatch.setattr(progress, "_consuming", threading.Event())
    progress._consuming.set()


def put(server, *envelopes: str) -> None:
    server.client.lpush(name(), *(task_message(uuid4(), one) for one in envelopes))


def carriers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "carrier"]


def test_a_carrier_goes_on_after_something_that_nobody_foresaw(worker, registry, own_valkey, consumes, caplog):
    def broken() -> None:
        raise ValueError("the event loop is closed")

    put(own_valkey, "before")
    until(lambda: registry.taken == ["before"])
    delivery.current().wake = broken
    for n in range(8):
        put(own_valkey, str(n))
        until(lambda n=n: str(n) in registry.taken, within=30)
    until(lambda: held(own_valkey) == 0)
    assert len(carriers()) == 4
    progress.check_consuming()
    assert "a carrier stumbled" in caplog.text


def test_what_a_carrier_had_in_hand_is_given_back_even_when_the_breaker_fails(worker, registry, own_valkey):
    def broken() -> None:
        raise ValueError("the event loop is closed")

    registry.go.clear()
    put(own_valkey, *(str(n) for n in range(500)))
    until(lambda: len(registry.posts) == 4)
    delivery.current().wake = broken
    registry.error = KeyError("a bug of ours")
    registry.chokes_on = {str(n) for n in range(500)}
    registry.go.set()
    until(lambda: own_valkey.client.llen(name()) == 500, within=30)
    assert holdings.mine().count() == 0


def test_what_could_not_be_given_back_takes_up_no_room_and_is_delivered_later(
    worker, registry, own_valkey, monkeypatch
):
    """Nobody foresaw it, so it is no matter of Redis being away."""
    broken = []

    def give_back(_held: holdings.Holdings, tags: list[str]) -> None:
        broken.extend(tags)
        raise ValueError("a bug of ours")

    with monkeypatch.context() as patched:
        patched.setattr(holdings.Holdings, "give_back", give_back)
        registry.error = RegistryAway("away")
        put(own_valkey, *(str(n) for n in range(500)))
        until(lambda: broken)
    registry.error = None
    until(lambda: len(set(registry.taken)) == 500, within=60)
    until(lambda: holdings.mine().count() == 0)


def test_it_does_not_spin_while_everything_fails_unforeseen(worker, registry, own_valkey):
    def broken() -> None:
        raise ValueError("the event loop is closed")

    registry.error = KeyError("a bug of ours")
    delivery.current().wake = broken
    put(own_valkey, *(str(n) for n in range(50)))
    until(lambda: len(registry.posts) >= 2)
    before = len(registry.posts)
    time.sleep(3)
    assert len(registry.posts) - before <= 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_with_fewer_carriers_than_it_should_have_is_not_ready(worker, registry, own_valkey, consumes):
    until(lambda: holdings.mine().last_beat > 0)
    progress.check_consuming()

    def end() -> None:
        raise SystemExit

    # It ends the way a thread is ended: by what no handler for errors catches.
    delivery.current().wake = end
    put(own_valkey, "one")
    until(lambda: len(carriers()) == 3)
    with pytest.raises(RuntimeError, match="threads of the worker ended: carrier"):
        progress.check_consuming()


@pytest.mark.parametrize("which", ["carrier", "holdings", "events"])
def test_a_worker_whose_threads_cannot_start_ends_with_an_error(which, own_valkey, registry, monkeypatch):
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name == which:
            raise RuntimeError("can't start new thread")
        start(thread)

    delivery.leave()
    holdings.mine.cache_clear()
    monkeypatch.setattr(progress, "_ended", [])
    monkeypatch.setattr(threading.Thread, "start", refused)
    app = Celery("threads", broker="memory://", set_as_current=False)
    app.steps["worker"].add(delivery.Step)
    # It returns: a worker that looks alive would not.
    WorkController(app=app, pool="solo", loglevel="CRITICAL").start()
    assert progress.exit_code() == 1


def test_nothing_begins_anew_after_the_worker_has_left(own_valkey, registry):
    with consuming(own_valkey) as app:
        until(lambda: own_valkey.client.zcard(holdings.workers_key()) == 1)
        delivery.leave()
        # What a consumer does that comes back to Redis after that.
        with pytest.raises(WorkerShutdown):
            delivery.strategy(app.tasks["ingest.deliver"], app, None)
    assert not [thread for thread in threading.enumerate() if thread.name in ("carrier", "holdings")]
