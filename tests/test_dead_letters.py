"""A rejected envelope on its whole way: kept, shown in command, metrics and portal, repaired, delivered once."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from certs_app import sealing_keys
from tests.running import ROOT, Installation, eventually

pytestmark = pytest.mark.system


@contextmanager
def another_sealing_key(services: Installation, tmp_path) -> Iterator[None]:
    """Let the registry hold another key under the same number, as after restoring the wrong backup; then repair it."""
    file = services.home / "secrets" / "sealing.json"
    right = file.read_bytes()
    sealing_keys.create(tmp_path / "other.json", tmp_path / "other-public.json")
    file.write_bytes((tmp_path / "other.json").read_bytes())
    services.serve("registry")
    yield
    services.stop("registry")
    file.write_bytes(right)
    services.serve("registry")


def second_worker(services: Installation) -> None:
    services.settings["MSGSYS_WORKER_METRICS_PORT"] = "9110"
    services.spawn("worker-2", sys.executable, str(ROOT / "manage.py"), "serve", "worker")
    del services.settings["MSGSYS_WORKER_METRICS_PORT"]


def send(services: Installation, number: int) -> set[str]:
    """Send so many messages, each in an envelope of its own; return their ids."""
    with services.session() as alice:
        answers = [services.submit(alice, f"message {n}") for n in range(number)]
    assert {answer.status_code for answer in answers} == {202}
    return {answer.json()["id"] for answer in answers}


def letters(services: Installation, *arguments: str) -> list[dict]:
    return json.loads(services.manage("dead_letters", "list", "--json", "--limit", "0", *arguments).stdout)


def stored(services: Installation) -> list[str]:
    return [message["id"] for message in services.messages(services.staff())]


def gauge(services: Installation) -> str | None:
    try:
        found = re.search(r"^msgsys_dead_letters (\S+)$", services.metrics("worker"), re.MULTILINE)
    except OSError:
        return None
    return found and found[1]


def counted(services: Installation) -> float:
    """Return how many the two workers say they put there, together."""
    first = services.ready["metrics"]["worker"]
    second = first.replace(str(9100 + services.offset), str(9110 + services.offset))
    with services.session("prometheus") as session:
        texts = [session.get(address, timeout=5).text for address in (first, second)]
    pattern = re.compile(r'^msgsys_dead_letters_total\{code="bad_seal"\} (\S+)$', re.MULTILINE)
    return sum(float(pattern.search(text)[1]) for text in texts)


def page(services: Installation) -> str:
    """Return the portal's page as an administrator's browser shows it."""
    portal = services.ready["portal"]
    with services.session("") as browser:
        form = browser.get(f"{portal}/login/", timeout=10).text
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)[1]
        login = {"username": services.ready["admin_user"], "password": services.ready["admin_password"]}
        fields = {**login, "csrfmiddlewaretoken": token, "next": "/dead-letters/"}
        answer = browser.post(f"{portal}/login/", fields, headers={"Referer": f"{portal}/login/"}, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.text


def reported(services: Installation, total: int) -> None:
    """Wait until the registry knows of so many: asked in its database, for signing in is throttled."""
    script = (
        "from registry.models import DeadLetterReport as R, DeadLetter as L;"
        "print(*R.objects.values_list('total', flat=True), L.objects.count())"
    )
    eventually(lambda: services.manage("shell", "-v0", "-c", script).stdout.split() == [str(total)] * 2, 20, every=0.3)


def test_a_rejected_envelope_is_seen_everywhere_and_delivered_once_after_the_repair(services, tmp_path):
    for role in ("ingest", "portal"):
        services.serve(role)
    with another_sealing_key(services, tmp_path):
        ids = send(services, 3)
        services.serve("worker")
        second_worker(services)
        found = eventually(lambda: len(letters(services)) == 3 and letters(services), within=30, every=0.3)
        assert {letter["code"] for letter in found} == {"bad_seal"}
        eventually(lambda: gauge(services) == "3.0", within=10, every=0.3)
        assert counted(services) == 3, "by whichever of the two had it in its hands"
        reported(services, 3)
        shown = page(services)
        assert all(letter["id"] in shown for letter in found)
        assert "message 1" not in shown
        header = json.loads(services.manage("dead_letters", "show", found[0]["id"], "--json").stdout)[0]
        assert header["sealing_key"] == 1
        assert stored(services) == []
    assert "3 dead letters would be" in services.manage("dead_letters", "requeue", "--dry-run").stdout
    assert "3 dead letters requeued" in services.manage("dead_letters", "requeue").stdout
    eventually(lambda: len(stored(services)) == 3, within=30, every=0.3)
    assert sorted(stored(services)) == sorted(ids), "each exactly once"
    assert letters(services) == []
    reported(services, 0)
    assert "No dead letters" in page(services)


def test_kill_9_of_workers_and_of_the_command_loses_and_doubles_nothing(services, tmp_path):
    for role in ("ingest", "portal"):
        services.serve(role)
    with another_sealing_key(services, tmp_path):
        ids = send(services, 150)
        # Ten of an older version, in the list it kept them in.
        _as_an_older_version(services, 10)
        for _ in range(4):
            services.serve("worker")
            second_worker(services)
            _wait_for_progress(services)
            for worker in ("worker", "worker-2"):
                services.stop(worker, signal.SIGKILL)
        services.serve("worker")
        eventually(lambda: len(letters(services)) == 150, within=60, every=0.5)
    for _ in range(3):
        _start_requeueing_and_kill_it(services)
    services.manage("dead_letters", "requeue")
    eventually(lambda: set(stored(services)) == ids, within=60, every=0.5)
    assert len(stored(services)) == 150
    assert letters(services) == []


def _as_an_older_version(services: Installation, number: int) -> None:
    with redis.Redis.from_url(services.ready["redis_url"]) as client:
        for _ in range(number):
            entry = json.loads(client.rpop("deliver"))
            tag, envelope = json.loads(entry["body"])[0]
            assert base64.b64decode(envelope)
            former = {"id": tag, "code": "bad_seal", "at": int(time.time()), "envelope": envelope}
            client.lpush("deliver.dead", json.dumps(former))


def _wait_for_progress(services: Installation) -> None:
    """Wait until another letter has come, or there is no more to do."""
    with redis.Redis.from_url(services.ready["redis_url"]) as client:
        before = client.hlen("deliver.dead_letters")
        eventually(lambda: client.hlen("deliver.dead_letters") > before or not client.llen("deliver"), within=30)


def _start_requeueing_and_kill_it(services: Installation) -> None:
    with redis.Redis.from_url(services.ready["redis_url"]) as client:
        before = client.hlen("deliver.dead_letters")
        command = [sys.executable, str(ROOT / "manage.py"), "dead_letters", "requeue", "--limit", "60"]
        process = subprocess.Popen(command, env=services.environment, cwd=ROOT, stdout=subprocess.DEVNULL)
        eventually(lambda: client.hlen("deliver.dead_letters") < before or process.poll() is not None, within=30)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
