import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.running import Installation, eventually

pytestmark = pytest.mark.system

MESSAGES = 1000
THREADS = 8
# The worker three times: it is the one that holds messages in its hands.
VICTIMS = ["ingest", "registry", "portal", "jobs", "valkey", *["worker"] * 3]


@pytest.mark.parametrize("victim", VICTIMS)
def test_killing_one_process_under_load_loses_and_doubles_nothing(victim, installation):
    before = {message["id"] for message in installation.messages(installation.staff())}
    accepted: set[str] = set()
    killer = threading.Timer(0.4, lambda: os.kill(installation.ready["pids"][victim], signal.SIGKILL))
    killer.start()
    with ThreadPoolExecutor(THREADS) as threads:
        for ids in threads.map(lambda part: send(installation, victim, part), range(THREADS)):
            accepted |= ids
    killer.join()
    assert len(accepted) == MESSAGES
    eventually(lambda: restarted(installation, victim), within=40)
    staff = installation.staff()

    def missing() -> set[str]:
        stored = [message["id"] for message in installation.messages(staff)]
        assert len(stored) == len(set(stored)), "a message was stored twice"
        # A client that got no answer resends with its key: one message, never two.
        assert len(set(stored) - before) <= MESSAGES
        return accepted - set(stored)

    eventually(lambda: not missing(), within=60, every=0.5)


def send(installation: Installation, victim: str, part: int) -> set[str]:
    """Send this thread's share, each message until it is accepted, as a good client does: same key, same body."""
    ids = set()
    with installation.session() as session:
        for number in range(MESSAGES // THREADS):
            name = f"{victim}-{part}-{number}"
            ids.add(eventually(lambda name=name: try_once(installation, session, name), within=40))
    return ids


def try_once(installation: Installation, session, name: str) -> str | None:
    try:
        answer = installation.submit(session, name, **{"Idempotency-Key": name})
    except OSError:
        time.sleep(0.1)
        return None
    return answer.json()["id"] if answer.status_code == 202 else None


def restarted(installation: Installation, victim: str) -> bool:
    old = installation.ready["pids"][victim]
    installation.reload()
    return installation.ready["pids"][victim] != old
