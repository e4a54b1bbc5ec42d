"""The ledger: what this ingest accepted, written down outside Redis, so that a Redis that lost its data is noticed.

Text files under settings.LEDGER_DIR, one per process and per hour (UTC) in which the messages were received, named
`2026-11-24T21.<random>.log`. A line is `<envelope id> <first message id> <count> <client>`: these messages, whose ids
follow each other, went into that envelope. A fifth word, `replay`, says that this was answered again, and perhaps never
written down the first time. Lines are only appended; what follows the last line feed was cut off by a crash.
docs/balance.md says what is made of them.
"""

import errno
import functools
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from django.conf import settings

from ingest import metrics

logger = logging.getLogger(__name__)

HOUR_MS = 3_600_000
# As appendfsync everysec: what a power cut may take, the process being killed takes nothing.
SYNC_EVERY = 1.0
# Lines that could not be written wait in memory: about 10,000 requests.
MAX_WAITING_BYTES = 1 << 20


class Line(NamedTuple):
    """One intake's messages in one envelope. `replayed_ms`: when they were answered again, if they were."""

    envelope: UUID
    first: UUID
    messages: int
    client: str
    replayed_ms: int = 0

    @property
    def hour(self) -> int:
        """The hour in which the messages were received, or the replay was, counted from the epoch."""
        return (self.replayed_ms or self.first.int >> 80) // HOUR_MS

    def __bytes__(self) -> bytes:
        replay = " replay" if self.replayed_ms else ""
        return f"{self.envelope} {self.first} {self.messages} {self.client}{replay}\n".encode()


def hour_name(hour: int) -> str:
    """Return the start of an hour's file names."""
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%dT%H")


class NotWritten(Exception):
    """Something was accepted that could not be written down yet."""


class Ledger:
    """This process' own files. Threads share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._files: dict[int, _File] = {}
        self._given_up: list[_File] = []
        self._waiting: dict[int, bytes] = {}
        self._failing = False
        self._syncing = False

    def record(self, lines: Iterable[Line]) -> None:
        """Write down what Redis has confirmed, one write for each hour in it. Never raises: it is accepted already."""
        by_hour: dict[int, bytes] = {}
        for line in lines:
            by_hour[line.hour] = by_hour.get(line.hour, b"") + bytes(line)
        with self._lock:
            for hour, written in by_hour.items():
                self._write(hour, self._waiting.pop(hour, b"") + written)
            self._begin_syncing()

    def check(self) -> None:
        """Raise NotWritten while lines wait for a disk that takes them."""
        if self._failing or self._waiting:
            raise NotWritten(f"{self._folder} takes no lines: is the disk full?")

    def _write(self, hour: int, lines: bytes) -> None:
        try:
            if hour not in self._files:
                self._files[hour] = _File(self._folder, hour)
            self._files[hour].append(lines)
            self._failing = False
        except OSError as error:
            metrics.LEDGER_FAILURES.inc()
            if not self._failing:
                logger.error("the ledger cannot be written", extra={"reason": str(error), "folder": self._folder})
            self._failing = True
            # It may end in half a line: the next try begins a new one.
            self._let_go(hour)
            self._keep(hour, lines)

    def _let_go(self, hour: int) -> None:
        file = self._files.pop(hour, None)
        if file is not None:
            self._given_up.append(file)

    def _keep(self, hour: int, lines: bytes) -> None:
        if sum(map(len, self._waiting.values())) + len(lines) <= MAX_WAITING_BYTES:
            self._waiting[hour] = lines
        else:
            # They are in Redis all the same: the comparison finds them once they are stored.
            logger.error("ledger lines were given up", extra={"lines": lines.count(b"\n")})

    def _begin_syncing(self) -> None:
        if self._syncing:
            return
        try:
            threading.Thread(target=self._sync_forever, name="ledger", daemon=True).start()
            self._syncing = True
        except RuntimeError:
            # No thread to be had at the moment: the next line tries again.
            metrics.LEDGER_FAILURES.inc()

    def _sync_forever(self) -> None:
        while True:
            time.sleep(SYNC_EVERY)
            self.sync()

    def sync(self) -> None:
        """Try again what waits, bring to the disk what is written, and close the files of past hours."""
        with self._lock:
            for hour in list(self._waiting):
                self._write(hour, self._waiting.pop(hour))
            changed = [file for file in [*self._files.values(), *self._given_up] if file.changed]
            for hour in sorted(self._files)[:-2]:
                self._let_go(hour)
            closing, self._given_up = self._given_up, []
        for file in changed:
            try:
                file.sync()
            except OSError as error:
                metrics.LEDGER_FAILURES.inc()
                logger.error("the ledger cannot be brought to the disk", extra={"reason": str(error)})
        # Here only: whoever writes must never wait for a disk, and nobody else may still be syncing them.
        for file in closing:
            file.close()


class _File:
    """One process' file of one hour."""

    def __init__(self, folder: Path, hour: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"{hour_name(hour)}.{secrets.token_hex(4)}.log"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self._descriptor = os.open(path, flags, 0o600)
        self._size = 0
        self.changed = False

    def append(self, lines: bytes) -> None:
        """Write whole lines or none. Raises OSError; then the file is done with."""
        written = os.write(self._descriptor, lines)
        if written != len(lines):
            # They are written once more, elsewhere: here, nothing of them may stay.
            os.ftruncate(self._descriptor, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written
        self.changed = True

    def sync(self) -> None:
        self.changed = False
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


@functools.cache
def ledger() -> Ledger:
    """Return this process' ledger."""
    return Ledger(settings.LEDGER_DIR)


def check_writable() -> None:
    """Readiness: raise while something accepted is not written down."""
    ledger().check()
