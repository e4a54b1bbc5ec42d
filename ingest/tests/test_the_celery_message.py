"""The hand-built queue entry, held against the installed Celery: a real worker takes it from a real Valkey."""

from uuid import uuid4

import pytest

from ingest.queue import name, task_message
from ingest.tests.conftest import consuming, held, until


@pytest.fixture(params=["ingest.transport:Transport", "redis"], ids=["our transport", "the stock transport"])
def worker(request, own_valkey, registry):
    """A real worker of this Celery, with our task, over either transport."""
    with consuming(own_valkey, request.param) as app:
        yield app


@pytest.mark.parametrize("envelope", ["c2VhbGVk", 'a"\\\u2028\U0001f600'])
def test_a_worker_takes_it_and_lets_go_of_it(envelope, worker, registry, own_valkey):
    own_valkey.client.lpush(name(), task_message(uuid4(), envelope))
    until(lambda: registry.taken == [envelope])
    until(lambda: own_valkey.client.llen(name()) + held(own_valkey) == 0)


def test_the_task_itself_delivers_where_no_strategy_of_ours_does(own_valkey, registry, monkeypatch):
    monkeypatch.setattr("ingest.tasks.Batched.Strategy", "celery.worker.strategy:default")
    monkeypatch.setattr("ingest.tasks.registry", lambda: registry)
    with consuming(own_valkey, "redis"):
        own_valkey.client.lpush(name(), task_message(uuid4(), "sealed"))
        until(lambda: registry.taken == ["sealed"])
        until(lambda: own_valkey.client.hlen("unacked") == 0)
