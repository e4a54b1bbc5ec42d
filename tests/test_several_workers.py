"""Workers that share a queue: each message once, and what a killed one held goes on at once."""

import os
import signal
import sys
import time

import pytest
import redis

from tests.running import ROOT, Installation, eventually

pytestmark = pytest.mark.system
MESSAGES = 600


@pytest.fixture
def two_workers(services: Installation) -> Installation:
    # An hour: only the heartbeat can be what brings envelopes back.
    services.settings["MSGSYS_VISIBILITY_TIMEOUT"] = "3600"
    for role in ("registry", "ingest", "portal", "worker"):
        services.serve(role)
    port = str(9110 + services.offset)
    command = [sys.executable, str(ROOT / "manage.py"), "serve", "worker"]
    services.spawn("worker2", *command, MSGSYS_WORKER_METRICS_PORT=port)
    with redis.Redis.from_url(services.ready["redis_url"]) as client:
        eventually(lambda: client.zcard("deliver.workers") == 2, within=20)
    return services


def submit(services: Installation, session, number: int) -> list[str]:
    """Submit messages, each a request and mostly an envelope of its own; return their ids."""
    return [services.submit(session, f"message {n}").json()["id"] for n in range(number)]


def held(client: redis.Redis) -> dict[str, int]:
    workers = [worker.decode() for worker in client.zrange("deliver.workers", 0, -1)]
    return {worker: client.hlen(f"deliver.held:{worker}") for worker in workers}


def test_what_a_killed_worker_held_is_delivered_by_the_other_within_fifteen_seconds(two_workers):
    services = two_workers
    os.kill(services.processes["registry"].pid, signal.SIGSTOP)
    with services.session() as alice, redis.Redis.from_url(services.ready["redis_url"]) as client:
        accepted = submit(services, alice, 40)
        eventually(lambda: len([1 for number in held(client).values() if number]) == 2, within=10)
        services.stop("worker2", signal.SIGKILL)
        killed = time.monotonic()
        assert sum(held(client).values()) + client.llen("deliver") > 0
        os.kill(services.processes["registry"].pid, signal.SIGCONT)
        eventually(lambda: len(held(client)) == 1 and not sum(held(client).values()), within=15)
        print(f"handed over {time.monotonic() - killed:.1f} s after the kill")
        staff = services.staff()
        eventually(lambda: {one["id"] for one in services.messages(staff)} == set(accepted), within=15, every=0.3)
    assert len(list(services.messages(staff))) == len(accepted)


def test_two_workers_deliver_each_message_once(two_workers):
    services = two_workers
    with services.session() as alice:
        accepted = submit(services, alice, MESSAGES)
    staff = services.staff()
    eventually(lambda: len(list(services.messages(staff))) == MESSAGES, within=30, every=0.5)
    assert sorted(one["id"] for one in services.messages(staff)) == sorted(accepted)
    duplicates = 'msgsys_worker_envelopes_total{outcome="duplicate"} 0.0'
    assert duplicates in services.metrics("worker"), "nothing was carried twice while nobody died"


def test_a_worker_whose_registry_hangs_ends_in_time_and_gives_everything_back(two_workers):
    services = two_workers
    services.stop("worker2")
    os.kill(services.processes["registry"].pid, signal.SIGSTOP)
    try:
        with services.session() as alice, redis.Redis.from_url(services.ready["redis_url"]) as client:
            submit(services, alice, 5)
            eventually(lambda: sum(held(client).values()), within=10)
            # `stop` waits ten seconds and no longer.
            services.stop("worker")
            assert not client.exists("deliver.workers")
            assert client.llen("deliver") >= 1
    finally:
        os.kill(services.processes["registry"].pid, signal.SIGCONT)
    services.serve("worker")
    staff = services.staff()
    eventually(lambda: len(list(services.messages(staff))) == 5, within=20, every=0.3)


def test_a_worker_that_ends_by_an_error_says_so_to_its_supervisor(services):
    for role in ("registry", "worker"):
        services.serve(role)
    worker = services.processes["worker"]
    with redis.Redis.from_url(services.ready["redis_url"]) as client:
        eventually(lambda: client.zcard("deliver.workers") == 1, within=20)
        client.execute_command("ACL", "SETUSER", "default", "-blmove")
        assert worker.wait(20) == 1
        client.execute_command("ACL", "SETUSER", "default", "+blmove")
    services.serve("worker")
    again = services.processes["worker"]
    with redis.Redis.from_url(services.ready["redis_url"]) as client:
        eventually(lambda: client.zcard("deliver.workers") == 1, within=20)
    assert again.poll() is None
    assert services.stop("worker") == 0
