"""The worker on Windows: no event loop, no signals, and the same promises."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.running import Installation, eventually
from tests.windows.conftest import Windows

pytestmark = pytest.mark.windows


@pytest.fixture
def queue(house: Installation) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(house.ready["redis_url"]) as client:
        yield client


@pytest.fixture
def ingest(house: Installation) -> Iterator[Installation]:
    """Ingest on Linux, while the test lasts."""
    house.serve("ingest")
    yield house
    house.stop("ingest")


@pytest.fixture
def registry_hangs(house: Installation) -> Iterator[None]:
    os.kill(house.processes["registry"].pid, signal.SIGSTOP)
    yield
    os.kill(house.processes["registry"].pid, signal.SIGCONT)


def accept(house: Installation, number: int) -> set[str]:
    """Submit messages, each a request and mostly an envelope of its own; return their ids."""
    with house.session() as alice:
        answers = [house.submit(alice, f"message {n}") for n in range(number)]
    assert {answer.status_code for answer in answers} == {202}
    return {answer.json()["id"] for answer in answers}


def all_stored(house: Installation, accepted: set[str]) -> None:
    """Wait until the registry has them all; each is there once."""
    staff = house.staff()
    eventually(lambda: accepted <= {one["id"] for one in house.messages(staff)}, within=30, every=0.5)
    stored = [one["id"] for one in house.messages(staff)]
    assert len(stored) == len(set(stored))


def start_worker(windows: Windows, queue: redis.Redis) -> None:
    windows.serve("worker")
    eventually(lambda: queue.zcard("deliver.workers") == 1, within=60)


def held(queue: redis.Redis) -> int:
    return sum(queue.hlen(key) for key in queue.keys("deliver.held:*") if not key.endswith(b":since"))


def resident_megabytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def test_it_delivers_from_redis_to_the_registry_and_ends_when_asked_to(windows, ingest, queue):
    accepted = accept(ingest, 300)
    start_worker(windows, queue)
    all_stored(ingest, accepted)
    assert windows.stop("worker") == 0
    assert not queue.exists("deliver", "deliver.workers")


def test_while_the_registry_is_away_it_takes_nothing_and_stays_small_and_then_goes_on(windows, ingest, queue):
    start_worker(windows, queue)
    ingest.stop("registry")
    try:
        accepted = accept(ingest, 20)
        open_now = 'msgsys_worker_breaker_open{reason="away"} 1.0'
        eventually(lambda: open_now in ingest.metrics("worker"), within=30)
        before = resident_megabytes(windows.processes["worker"].pid)
        accepted |= accept(ingest, 400)
        assert queue.llen("deliver") > 300, "the rest waits in Redis"
        assert resident_megabytes(windows.processes["worker"].pid) < before + 10
    finally:
        ingest.serve("registry")
    all_stored(ingest, accepted)
    assert open_now not in ingest.metrics("worker")
    assert windows.stop("worker") == 0


def test_when_the_registry_hangs_it_ends_in_ten_seconds_and_gives_everything_back(
    windows, ingest, queue, registry_hangs
):
    start_worker(windows, queue)
    accept(ingest, 5)
    eventually(lambda: held(queue) > 0, within=30)
    assert windows.stop("worker") == 0
    assert (held(queue), queue.llen("deliver") > 0) == (0, True)
    assert not queue.exists("deliver.workers")


def test_what_a_killed_one_held_is_delivered_by_another(windows, ingest, queue, registry_hangs):
    start_worker(windows, queue)
    accepted = accept(ingest, 20)
    eventually(lambda: held(queue) > 0, within=30)
    windows.kill("worker")
    assert held(queue) > 0
    os.kill(ingest.processes["registry"].pid, signal.SIGCONT)
    # On Linux: workers of both kinds share a queue.
    ingest.serve("worker")
    try:
        all_stored(ingest, accepted)
    finally:
        ingest.stop("worker")
    assert held(queue) == 0
