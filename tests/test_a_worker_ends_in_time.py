"""A worker that is told to end does so within ten seconds, whatever hangs, and nothing is lost by it."""

import os
import signal

import pytest
import redis
import requests

from tests.running import Installation, eventually

pytestmark = pytest.mark.system


def waiting(services: Installation) -> list[tuple[str, ...]]:
    with redis.Redis.from_url(services.ready["redis_url"]) as client:
        found = [("deliver",)] * client.llen("deliver")
        for worker in client.zrange("deliver.workers", 0, -1):
            found += [(worker.decode(), tag.decode()) for tag in client.hkeys(f"deliver.held:{worker.decode()}")]
        return found


def bodies(services: Installation, staff: requests.Session) -> list[str]:
    return [message["message_body"] for message in services.messages(staff)]


@pytest.mark.parametrize("hang", [("registry",), ("registry", "valkey")], ids="+".join)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "after a while"])
def test_it_ends_within_ten_seconds_whatever_hangs(services, hang, at_once):
    for role in ("registry", "ingest", "portal", "worker"):
        services.serve(role)
    with redis.Redis.from_url(services.ready["redis_url"]) as client:
        eventually(lambda: client.zcard("deliver.workers") == 1, within=30)
    with services.session() as alice:
        os.kill(services.processes["registry"].pid, signal.SIGSTOP)
        assert services.submit(alice, "on its way").status_code == 202
    eventually(lambda: [place for place in waiting(services) if len(place) == 2], within=30)
    for name in hang:
        os.kill(services.processes[name].pid, signal.SIGSTOP)
    if not at_once:
        # Celery waits for Redis by now.
        with pytest.raises(AssertionError):
            eventually(lambda: services.processes["worker"].poll() is not None, within=4)
    try:
        assert services.stop("worker", within=10) == 0
    finally:
        for name in hang:
            os.kill(services.processes[name].pid, signal.SIGCONT)
    assert len(waiting(services)) == 1, "in the queue, or held until another worker puts it back"
    services.serve("worker")
    staff = services.staff()
    eventually(
        lambda: [one["message_body"] for one in services.messages(staff)] == ["on its way"], within=40, every=0.3
    )
    eventually(lambda: waiting(services) == [], within=30)
