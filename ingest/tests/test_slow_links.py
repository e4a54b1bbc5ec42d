"""A link that does not carry a whole batch in time carries smaller ones: no batch is tried again for ever."""

import pytest

from ingest import holdings
from ingest.tests.conftest import consuming, until
from ingest.tests.test_batches import put


@pytest.fixture
def worker(own_valkey, registry):
    with consuming(own_valkey) as app:
        yield app


def test_batches_get_smaller_until_they_arrive_in_time(worker, registry, own_valkey):
    registry.carries = 100_000
    put(own_valkey, *(f"{n}-" + "x" * 30_000 for n in range(40)))
    until(lambda: len(set(registry.taken)) == 40, within=60)
    until(lambda: holdings.mine().count() == 0)


def test_an_envelope_goes_alone_when_no_more_is_carried(worker, registry, own_valkey):
    registry.carries = 30_100
    put(own_valkey, *(f"{n}-" + "x" * 30_000 for n in range(8)))
    until(lambda: len(set(registry.taken)) == 8, within=60)


def test_batches_get_larger_again_when_the_link_is_fast(worker, registry, own_valkey):
    registry.carries = 1000
    put(own_valkey, *(f"{n}-" + "x" * 30_000 for n in range(40)))
    until(lambda: registry.posts and len(registry.posts[-1]) == 1, within=60)
    registry.carries = 1 << 20
    until(lambda: len(set(registry.taken)) == 40, within=60)
    put(own_valkey, *(f"more {n}-" + "x" * 30_000 for n in range(300)))
    until(lambda: len(set(registry.taken)) == 340, within=60)
    assert max(map(len, registry.posts[-8:])) > 20


def test_a_slow_registry_does_not_get_larger_batches(worker, registry, own_valkey, settings):
    settings.REGISTRY_TIMEOUT = 0
    registry.carries = 250_000
    put(own_valkey, *(f"{n}-" + "x" * 30_000 for n in range(100)))
    until(lambda: len(set(registry.taken)) == 100, within=60)
    through = next(n for n, post in enumerate(registry.posts) if sum(map(len, post)) <= registry.carries)
    assert max(sum(map(len, post)) for post in registry.posts[through + 4 :]) <= registry.carries
