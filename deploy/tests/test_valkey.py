"""The embedded Valkey, started as `up` starts it."""

import subprocess

import pytest
import redis

from deploy import valkey
from ingest.checks import queue_keeps_messages
from ingest.tests.conftest import free_port, until


@pytest.fixture
def embedded(settings, tmp_path):
    """Start it in a home of its own."""
    settings.ROLE = "ingest"
    settings.HOME, settings.REDIS_PASSWORD, settings.PORT_OFFSET = tmp_path, "pw", free_port() - 6390
    settings.REDIS_URL = f"redis://:pw@127.0.0.1:{valkey.port()}/0"
    with subprocess.Popen(valkey.command(), stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=5) as client:
                until(lambda: answers(client), within=30)
                yield client
        finally:
            process.terminate()


def answers(client):
    try:
        return client.ping()
    except redis.ConnectionError:
        return False


@pytest.mark.parametrize(("length", "percent"), [(1_000_000, 80), (10, 95), (5_000_000, 50)])
def test_it_is_set_up_to_hold_as_much_as_the_queue_may(request, settings, length, percent):
    settings.MAX_QUEUE_LENGTH, settings.QUEUE_MEMORY_PERCENT = length, percent
    client = request.getfixturevalue("embedded")
    assert queue_keeps_messages(None) == []
    memory = client.info("memory")
    assert memory["used_memory"] * 10 < memory["maxmemory"]
