"""The running system on a Redis by TLS where everybody has an account of their own that may do no more than it must."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import pytest
import requests

from ingest.queue import task_message
from ingest.tests.conftest import _redis_server
from ingest.tests.guarded_redis import TlsRedis
from tests.chaos.ledger import rows
from tests.running import ROOT, Installation, eventually

pytestmark = pytest.mark.system
CELERY = [sys.executable, "-m", "celery", "-A", "msgsys_project.celery"]


@pytest.fixture
def guarded(services: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsRedis]:
    """The Redis of `services`, in place of the embedded Valkey."""
    services.stop("valkey")
    server = TlsRedis.prepare(tmp_path_factory.mktemp("guarded") / "redis", _redis_server())
    files = {"CA": "ca.crt", "CERTIFICATE": "client.crt", "KEY": "client.key"}
    services.settings |= {f"REDIS_{what}_FILE": str(server.folder / file) for what, file in files.items()}
    server.start()
    try:
        yield server
        services.stop_all()
    finally:
        server.stop()


def serve(services: Installation, server: TlsRedis, *roles: str) -> None:
    for role in roles:
        services.settings["REDIS_URL"] = server.url_of(role) if role in ("ingest", "worker") else ""
        services.serve(role)


def submit(services: Installation, alice: requests.Session, body: str) -> None:
    """Have a message accepted: as a client does, again when a busy machine was too slow to reach Redis."""
    key = {"Idempotency-Key": body.replace(" ", "-")}
    eventually(lambda: services.submit(alice, body, **key).status_code == 202, within=30, every=0.5)


def stored(services: Installation) -> int:
    return rows(services.home / "msgsys.sqlite3", "").total()


def test_a_worker_delivers_gives_back_buries_and_restores_under_its_account(services, guarded):
    root = guarded.client
    root.lpush("deliver.dead", '{"id": "of an older version", "envelope": "x", "code": "bad_seal", "at": 1}')
    serve(services, guarded, "registry", "ingest", "worker")
    with services.session() as alice:
        submit(services, alice, "delivered")
        eventually(lambda: stored(services) == 1, within=30)

        root.lpush("deliver", "no message", task_message(uuid4(), "no envelope"))
        eventually(lambda: root.hlen("deliver.dead_letters") == 3, within=30)

        services.stop("registry")
        submit(services, alice, "given back")
        log = services.home / "worker.test.log"
        eventually(lambda: "the registry takes nothing at the moment" in log.read_text(), within=30)
        eventually(lambda: root.llen("deliver") == 1, within=30)
        serve(services, guarded, "registry")
        eventually(lambda: stored(services) == 2, within=30)

        os.kill(services.processes["registry"].pid, signal.SIGSTOP)
        submit(services, alice, "restored")
        (dead,) = root.zrange("deliver.workers", 0, -1)
        # With the one before, perhaps, whose answer the registry had no time to give.
        eventually(lambda: root.hlen(f"deliver.held:{dead.decode()}") and not root.llen("deliver"), within=30)
        services.stop("worker", signal.SIGKILL)
        os.kill(services.processes["registry"].pid, signal.SIGCONT)
    serve(services, guarded, "worker")
    eventually(lambda: stored(services) == 3 and root.zscore("deliver.workers", dead) is None, within=30)
    # What was delivered twice is answered twice: until then it is held, and would go back into the queue at the end.
    eventually(lambda: not root.llen("deliver") and not root.keys("deliver.held:*"), within=30)

    assert services.stop("worker", within=20) == 0
    assert root.zrange("deliver.workers", 0, -1) == []
    assert root.lrange("deliver", 0, -1) == []
    assert guarded.refused() == []


def celery(services: Installation, *arguments: str, code: int = 0) -> str:
    command = [*CELERY, *arguments]
    done = subprocess.run(command, env=services.environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_operators_look_and_handle_under_an_account_of_their_own(services, guarded, tmp_path):
    root = guarded.client
    serve(services, guarded, "registry", "ingest", "worker")
    root.lpush("deliver", *(task_message(uuid4(), "no envelope") for _ in range(3)))
    eventually(lambda: root.hlen("deliver.dead_letters") == 3, within=30)
    services.settings["REDIS_URL"] = guarded.url_of("operator")

    assert "pong" in celery(services, "inspect", "ping", "--timeout=10")
    assert "OK" in celery(services, "inspect", "active", "--timeout=10")
    letters(services, root)
    assert services.manage("reconcile").returncode == 0
    watch(services)
    worker = services.processes.pop("worker")
    # It answers by ending: the command itself says that no node replied.
    celery(services, "control", "shutdown", code=69)
    assert worker.wait(20) == 0
    assert guarded.refused() == []


def letters(services: Installation, root) -> None:
    """Go through what `dead_letters` can do."""
    first, second, _ = services.manage("dead_letters", "export-ids").stdout.split()
    assert first in services.manage("dead_letters", "list").stdout
    assert first in services.manage("dead_letters", "show", first).stdout
    services.manage("dead_letters", "drop", "--id", first, "--yes")
    assert root.hlen("deliver.dead_letters") == 2
    services.manage("dead_letters", "requeue", "--id", second)
    eventually(lambda: root.hlen("deliver.dead_letters") == 2, within=30)


def watch(services: Installation) -> None:
    """See by Flower that a message is carried."""
    port = 5555 + services.offset
    options = [f"--port={port}", "--address=127.0.0.1"]
    services.spawn("flower", *CELERY, "flower", *options, FLOWER_UNAUTHENTICATED_API="true")
    with requests.Session() as session:
        session.trust_env = False

        def ask(path: str) -> dict[str, dict[str, object]]:
            try:
                answer = session.get(f"http://127.0.0.1:{port}/api/{path}", timeout=5)
            except OSError:
                return {}
            return answer.json() if answer.status_code == 200 else {}

        eventually(lambda: ask("workers?refresh=1"), within=40)
        celery(services, "control", "enable_events")
        with services.session() as alice:
            submit(services, alice, "hello")
        eventually(lambda: [one for one in ask("tasks").values() if one["state"] == "SUCCESS"], within=30)
    services.stop("flower", within=20)
