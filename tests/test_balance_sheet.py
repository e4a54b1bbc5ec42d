"""The balance sheet through real processes: what is lost is named, and the portal says so."""

import contextlib
import json
import re
import signal
import sqlite3
import threading

import pytest
import redis
import requests

from tests.running import Installation, eventually, start_valkey

pytestmark = pytest.mark.system


@pytest.fixture
def installed(tmp_path):
    """A prepared home: Valkey, registry, portal and ingest run, the worker does not yet."""
    own = Installation(tmp_path, {"MSGSYS_BALANCE_SECONDS": "1"})
    try:
        own.up("--no-demo")
        own.stop("up")
        start_valkey(own)
        for role in ("registry", "portal", "ingest"):
            own.serve(role)
        yield own
    finally:
        own.stop_all()


@pytest.fixture
def queue(installed):
    password = (installed.home / "secrets" / "redis_password").read_text().strip()
    with redis.Redis(port=installed.offset + 6390, password=password) as client:
        yield client


def unaccounted(installed) -> float:
    (value,) = re.findall(r"^msgsys_unaccounted_messages (\S+)", installed.metrics("ingest"), re.MULTILINE)
    return float(value)


def reconcile(installed):
    done = installed.manage("reconcile", "--json", check=False)
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


def report(installed) -> tuple[int, int]:
    """Return what ingest told the registry last: how much is queued, and how much is missing."""
    with contextlib.closing(sqlite3.connect(installed.home / "msgsys.sqlite3")) as database:
        return database.execute("SELECT depth, unaccounted FROM registry_queuereport").fetchone()


def stored(installed) -> set[str]:
    return {message["id"] for message in installed.messages(installed.staff())}


def test_what_was_taken_out_of_the_queue_is_named(installed, queue):
    with installed.session() as alice:
        first, lost, last = (installed.submit(alice, f"number {n}").json()["id"] for n in range(3))
    assert reconcile(installed)[0] == 0
    envelopes = queue.lrange("deliver", 0, -1)
    queue.lrem("deliver", 1, envelopes[1])
    code, found, _ = reconcile(installed)
    assert (code, [one["id"] for one in found["missing"]]) == (1, [lost])
    (row,) = found["rows"]
    assert (row["accepted"], row["queued"], row["unaccounted"]) == (3, 2, 1)

    installed.serve("worker")
    eventually(lambda: stored(installed) == {first, last}, within=30)
    # A minute is compared when it is over.
    eventually(lambda: unaccounted(installed) == 1, within=180, every=1)
    eventually(lambda: report(installed) == (0, 1), within=10)
    assert lost in (installed.home / "ingest.test.log").read_text()

    # ingest is killed, and knows it still.
    installed.stop("ingest", signal.SIGKILL)
    installed.serve("ingest")
    eventually(lambda: unaccounted(installed) == 1, within=20, every=0.5)

    assert installed.manage("reconcile", "--write-off").stdout.startswith("1 given up")
    eventually(lambda: unaccounted(installed) == 0, within=20, every=0.5)
    eventually(lambda: report(installed) == (0, 0), within=10)

    installed.stop("registry")
    code, _, error = reconcile(installed)
    assert code == 2
    assert "cannot be compared now" in error


def test_killing_ingest_under_load_leaves_nothing_unaccounted_for(installed):
    installed.serve("worker")
    accepted: list[str] = []
    stop = threading.Event()

    def load():
        while not stop.is_set():
            # A new session for each try: the old one's connection died with its server.
            with contextlib.suppress(requests.RequestException), installed.session() as alice:
                while not stop.is_set():
                    answer = installed.submit(alice, f"number {len(accepted)}")
                    if answer.status_code == 202:
                        accepted.append(answer.json()["id"])

    clients = [threading.Thread(target=load) for _ in range(3)]
    for client in clients:
        client.start()
    for _ in range(5):
        before = len(accepted)
        eventually(lambda: len(accepted) > before + 30, within=30)  # noqa: B023  called in this turn
        installed.stop("ingest", signal.SIGKILL)
        installed.serve("ingest")
    stop.set()
    for client in clients:
        client.join()
    lines = "".join(file.read_text() for file in (installed.home / "ledger").glob("*.log"))
    assert {uid for uid in accepted if uid not in lines} == set()
    assert len(accepted) > 150
    code, found, error = reconcile(installed)
    assert (code, found["missing"]) == (0, []), error
    eventually(lambda: set(accepted) <= stored(installed), within=60, every=0.5)
    code, found, _ = reconcile(installed)
    assert (code, sum(row["queued"] for row in found["rows"])) == (0, 0)
    assert sum(row["stored"] for row in found["rows"]) >= len(accepted)
