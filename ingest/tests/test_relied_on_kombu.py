"""What the engine relies on inside kombu and Celery: an upgrade fails here, with a sentence, and nowhere else."""

import inspect
import select
import threading
from importlib.metadata import version
from pathlib import Path

import pytest
from celery import Celery, bootsteps
from celery.worker import WorkController, state, strategy
from celery.worker.consumer import Consumer
from kombu.asynchronous.hub import Hub
from kombu.transport import redis as stock
from kombu.transport import virtual

from ingest import delivery, holdings, tasks, transport

REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"


@pytest.mark.parametrize("package", ["celery", "kombu", "redis"])
def test_they_are_pinned_and_these_are_what_is_installed(package):
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    assert f"{package}=={version(package)}" in lines, (
        f"{package}: read this file again before another version is pinned"
    )


OVERRIDDEN = {
    stock.Channel: {
        "_brpop_start": ["self", "timeout"],
        "_brpop_read": ["self", "options"],
        "_queue_bind": ["self", "exchange", "routing_key", "pattern", "queue"],
        "basic_consume": ["self", "queue", "args", "kwargs"],
    },
    stock.QoS: {
        "append": ["self", "message", "delivery_tag"],
        "ack": ["self", "delivery_tag"],
        "reject": ["self", "delivery_tag", "requeue"],
        "restore_visible": ["self", "start", "num", "interval"],
        "can_consume": ["self"],
        "restore_unacked_once": ["self", "stderr"],
    },
    stock.MultiChannelPoller: {"get": ["self", "callback", "timeout"]},
    stock.Transport: {"on_readable": ["self", "fileno"], "_deliver": ["self", "message", "queue"]},
}


@pytest.mark.parametrize(
    ("owner", "name"), [(owner, name) for owner, names in OVERRIDDEN.items() for name in names], ids=str
)
def test_a_method_that_we_replace_or_call_is_there_and_takes_what_it_took(owner, name):
    assert list(inspect.signature(getattr(owner, name)).parameters) == OVERRIDDEN[owner][name]


def source(what) -> str:
    return inspect.getsource(what)


def test_a_channel_reads_through_the_method_we_replace():
    assert "'BRPOP': self._brpop_read" in source(stock.Channel.__init__)
    assert "channel._brpop_start()" in source(stock.MultiChannelPoller._register_BRPOP)


def test_a_channel_waits_only_when_there_is_room():
    assert "channel.qos.can_consume()" in source(stock.MultiChannelPoller.on_poll_start)
    assert "channel._in_poll" in source(stock.MultiChannelPoller._register_BRPOP)


def test_a_wait_for_redis_is_marked_the_way_the_health_check_reads_it():
    check = source(stock.MultiChannelPoller.maybe_check_brpop_health)
    assert "channel._in_poll" in check
    assert "channel._brpop_sent_at" in check
    assert callable(stock.Channel._flush_brpop_reauth)


def test_what_is_unacknowledged_at_the_end_of_a_channel_goes_through_the_method_we_replace():
    assert "restore_unacked_once" in source(virtual.Channel.close)


def test_a_transport_makes_its_channels_of_our_class_and_polls_with_ours():
    assert transport.Transport.Channel is transport.Channel
    assert transport.SentinelTransport.Channel is transport.SentinelChannel
    assert issubclass(transport.SentinelChannel, stock.SentinelChannel)
    assert "self.cycle = MultiChannelPoller()" in source(stock.Transport.__init__)
    assert transport.Channel.QoS is transport.QoS


def test_celery_asks_a_task_for_its_strategy():
    assert tasks.Batched.Strategy == "ingest.delivery:strategy"
    assert "instantiate(self.Strategy, self, app, consumer" in source(tasks.Batched.start_strategy)
    handler = strategy.default.__code__.co_consts
    assert any("message" in getattr(const, "co_varnames", ()) for const in handler)
    taken = "strategy(\n                        message, payload,"
    assert taken in source(Consumer.create_task_handler), "called with message, payload, ack, reject, callbacks"


def test_another_thread_can_wake_the_event_loop():
    hub = Hub()
    try:
        hub.timer.call_after(0, lambda: None)
        next(hub.create_loop())
        caller = threading.Thread(target=hub.call_soon, args=(lambda: None,))
        caller.start()
        caller.join()
        readable, _, _ = select.select([hub._waker.fileno()], [], [], 5)
        assert readable, "the loop would sleep on although there is something to do"
    finally:
        hub.close()


def test_the_worker_closes_its_parts_before_it_stops_them(own_valkey):
    order: list[str] = []

    class Part(bootsteps.StartStopStep):
        def start(self, parent):
            order.append("start")

        def close(self, parent):
            order.append("close")

        def stop(self, parent):
            order.append("stop")

    app = Celery("steps", broker="memory://", set_as_current=False)
    app.steps["worker"].add(Part)
    app.steps["worker"].add(delivery.Step)
    worker = WorkController(app=app, pool="solo", loglevel="ERROR")
    threading.Timer(0.3, worker.stop).start()
    try:
        worker.start()
    finally:
        delivery.leave()
        holdings.mine.cache_clear()
    assert order[:3] == ["start", "close", "stop"]


def test_inspect_reads_the_state_we_write():
    for name, parameter in (("task_reserved", "request"), ("task_accepted", "request"), ("task_ready", "request")):
        assert parameter in inspect.signature(getattr(state, name)).parameters
