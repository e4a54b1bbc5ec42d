"""A thread beside the worker: tells the registry which dead letters there are, for the portal, which has no Redis."""

import logging
import secrets
import threading
import time
from typing import Any

from django.conf import settings
from prometheus_client import REGISTRY

from ingest import dead_letters, metrics, progress, queue
from ingest.dead_letters import Letter
from ingest.registry_client import registry
from wire.dead_letters import CODE, ID, LAST, MAX_REPORTED, OTHER

logger = logging.getLogger(__name__)

# Seconds between looks at how many there are, and between reports when nothing has changed.
LOOK_EVERY = 2.0
REPORT_EVERY = 60.0
# Reading all letters takes at most this share of the time, however many there are.
_SHARE = 0.05


class Reporter:
    """Knows what was reported last, and when the next report is due. Times are of a monotonic clock."""

    def __init__(self) -> None:
        self._adopted = False
        self._total: int | None = None
        self._letters: list[Letter] = []
        self._read_from = 0.0
        self._due = 0.0

    def step(self, now: float) -> None:
        """Do what is due. Raises redis.RedisError, RegistryError: a later step tries again."""
        if not self._adopted:
            dead_letters.adopt()
            self._adopted = True
        total = dead_letters.count()
        may_read = now >= self._read_from
        if may_read and total != self._total:
            self._due = now
        if now < self._due:
            return
        if may_read:
            self._read(total, now)
        # Set first, so that a registry that is away is not asked at every step.
        self._due = now + settings.RETRY_SECONDS
        registry().report_dead_letters(self.report())
        self._due = now + REPORT_EVERY

    def report(self) -> dict[str, Any]:
        """Build the body of POST /dead_letters from what was read last. Raises redis.RedisError."""
        letters = [_as_dict(letter) for letter in self._letters if ID.match(letter.id)]
        # Between counting and reading, letters may have come.
        total = max(self._total or 0, len(letters))
        return {"queue": queue.name(), "secret": _secret(), "total": total, "letters": letters}

    def _read(self, total: int, now: float) -> None:
        began = time.monotonic()
        self._letters = dead_letters.newest(dead_letters.iterate(), MAX_REPORTED)
        self._total = total
        self._read_from = now + (time.monotonic() - began) / _SHARE


def _secret() -> str:
    """Return by what the registry knows this queue's reports, made once. Raises redis.RedisError."""
    client: Any = queue.sync_queue().client
    key = f"{queue.name()}.report_secret"
    known = client.get(key)
    if known is None:
        # Whoever comes second finds what the first one made. Not each time: a Redis that is full refuses to set.
        client.set(key, secrets.token_hex(16), nx=True)
        known = client.get(key)
    return str(known.decode(errors="replace"))


def start() -> None:
    """Begin, and show the number of dead letters among this process's metrics."""
    REGISTRY.register(metrics.DeadLetters(dead_letters.count))
    threading.Thread(target=_run, args=(Reporter(),), name="dead letters", daemon=True).start()


def _run(reporter: Reporter) -> None:
    silent_until = 0.0
    while not progress.wait_for_stop(LOOK_EVERY):
        try:
            reporter.step(time.monotonic())
        except Exception as error:
            # Whatever it is, delivery goes on, and this thread must outlive it.
            if time.monotonic() >= silent_until:
                silent_until = time.monotonic() + REPORT_EVERY
                reason = f"{type(error).__name__}: {error}"[:200]
                logger.warning("the dead letters could not be reported", extra={"reason": reason})


def _as_dict(letter: Letter) -> dict[str, Any]:
    code = letter.code if CODE.match(letter.code) else OTHER
    return {"id": letter.id, "code": code, "at": min(max(0, letter.at), LAST)}
