"""Celery's own tools work with our worker, and see ids, never what is in an envelope."""

import os
import signal
import subprocess
import sys

import pytest
import redis
import requests

from tests.running import ROOT, Installation, eventually

pytestmark = pytest.mark.system
CELERY = [sys.executable, "-m", "celery", "-A", "msgsys_project.celery"]


@pytest.fixture
def running(services: Installation) -> Installation:
    for role in ("registry", "ingest", "worker"):
        services.serve(role)
    with redis.Redis.from_url(services.ready["redis_url"]) as client:
        eventually(lambda: client.zcard("deliver.workers") == 1, within=20)
    return services


def celery(services: Installation, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [*CELERY, *arguments],
        env=services.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_inspect_sees_what_is_on_its_way_by_its_id_alone(running):
    assert "pong" in celery(running, "inspect", "ping")
    os.kill(running.processes["registry"].pid, signal.SIGSTOP)
    try:
        with running.session() as alice:
            assert running.submit(alice, "a secret of alice").status_code == 202
        with redis.Redis.from_url(running.ready["redis_url"]) as client:
            (worker,) = client.zrange("deliver.workers", 0, -1)
            (uid,) = eventually(lambda: client.hkeys(f"deliver.held:{worker.decode()}"), within=10)
        seen = celery(running, "inspect", "active")
    finally:
        os.kill(running.processes["registry"].pid, signal.SIGCONT)
    assert uid.decode() in seen
    assert "(sealed)" in seen
    assert "AQE" not in seen, "an envelope begins with these letters"


def test_control_shutdown_ends_the_worker_in_time(running):
    worker = running.processes.pop("worker")
    # It answers by ending: the command itself says that no node replied.
    celery(running, "control", "shutdown", code=69)
    assert worker.wait(10) == 0
    with redis.Redis.from_url(running.ready["redis_url"]) as client:
        assert not client.exists("deliver.workers")


def test_flower_sees_the_worker_and_its_tasks_by_their_ids(running):
    port = 5555 + running.offset
    authentication = ("operator", "a password of the test")
    options = [f"--port={port}", "--address=127.0.0.1", f"--basic-auth={':'.join(authentication)}"]
    running.spawn("flower", *CELERY, "flower", *options, FLOWER_UNAUTHENTICATED_API="")
    with requests.Session() as session:
        session.trust_env = False
        session.auth = authentication

        def ask(path: str) -> dict[str, dict[str, object]]:
            try:
                answer = session.get(f"http://127.0.0.1:{port}/api/{path}", timeout=5)
            except OSError:
                return {}
            return answer.json() if answer.status_code == 200 else {}

        (name,) = eventually(lambda: ask("workers?refresh=1"), within=40)
        celery(running, "control", "enable_events")
        with running.session() as alice:
            assert running.submit(alice, "a secret of alice").status_code == 202
        tasks = eventually(lambda: [one for one in ask("tasks").values() if one["state"] == "SUCCESS"], within=20)
    assert name.startswith("celery@")
    (task,) = tasks
    assert task["name"] == "ingest.deliver"
    assert "AQE" not in str(task)
    running.stop("flower")
