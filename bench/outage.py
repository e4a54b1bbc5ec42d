"""One round: a backlog, a registry that is away, its return, the drain. Every message must be there once at the end."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import click
import redis
from django.apps import apps
from django.db import connection

from bench import filling
from bench.contestants import Contestant
from bench.process_usage import cpu_seconds, resident_mb
from tests.running import Installation, eventually

# Seconds from the start of a worker until it counts: by then it has met the registry's absence.
SETTLE = 2
LOOK_EVERY = 0.1
# No message at all delivered for so long: something is broken.
STUCK = 180


@dataclass(frozen=True)
class Away:
    """A worker's use while the registry is away; with several workers, that of the greediest."""

    seconds: float
    cpu_percent: float
    rss_mb: float
    rss_peak_mb: float


@dataclass(frozen=True)
class Drain:
    """From the first stored row to the last. CPU is in microseconds per message, all workers together."""

    seconds: float
    messages_per_second: float
    worker_us: float
    registry_us: float
    redis_us: float
    rss_peak_mb: float


@dataclass(frozen=True)
class Round:
    contestant: str
    workers: int
    messages: int
    away: Away | None
    drain: Drain


class NotExactlyOnce(Exception):
    """Messages are missing, or there are others."""


@dataclass(frozen=True)
class Course:
    """Where rounds are run: Valkey runs already, the registry and the workers do not."""

    installed: Installation
    client: "redis.Redis"

    def run(self, contestant: Contestant, messages: int, *, outage: float, workers: int = 1) -> Round:
        """Run one round. Without an outage the registry is there before the workers. Raises NotExactlyOnce."""
        self._clear()
        ids = filling.fill(self.installed, self.client, contestant.queue, messages)
        if not outage:
            self.installed.serve("registry")
        with self._workers(contestant, workers) as pids:
            eventually(lambda: contestant.is_up(self.client, workers, messages), within=30)
            away = None
            if outage:
                time.sleep(SETTLE)
                away = _watch(pids, outage)
                self.installed.serve("registry")
            drain = self._drain(contestant, messages, pids)
        self.installed.stop("registry")
        _check(ids)
        return Round(contestant.name, workers, messages, away, drain)

    def _clear(self) -> None:
        self.client.flushdb()
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM registry_message")

    @contextmanager
    def _workers(self, contestant: Contestant, workers: int) -> Iterator[list[int]]:
        started = [contestant.start(self.installed, number) for number in range(workers)]
        try:
            yield [one.pid for one in started]
        finally:
            for number in range(workers):
                self.installed.stop(f"worker {number}", within=30)

    def _drain(self, contestant: Contestant, messages: int, pids: Sequence[int]) -> Drain:
        table = _table()
        eventually(table.exists, within=STUCK, every=0.02)
        there, started, before = table.count(), time.monotonic(), self._used(pids)
        peak = self._wait_until_done(contestant, messages, pids)
        seconds = time.monotonic() - started
        count = max(1, messages - there)
        worker, registry, server = (
            (after - then) * 1e6 / count for then, after in zip(before, self._used(pids), strict=True)
        )
        return Drain(seconds, count / seconds, worker, registry, server, peak)

    def _used(self, pids: Sequence[int]) -> tuple[float, float, float]:
        processes = self.installed.processes
        return (
            sum(cpu_seconds(pid) for pid in pids),
            cpu_seconds(processes["registry"].pid),
            cpu_seconds(processes["valkey"].pid),
        )

    def _wait_until_done(self, contestant: Contestant, messages: int, pids: Sequence[int]) -> float:
        """Return the highest resident size of a worker meanwhile."""
        table, peak = _table(), 0.0
        fewest, since = messages, time.monotonic()
        with bar("draining", messages) as progress_bar:
            while (left := contestant.left(self.client)) or table.count() < messages:
                if left < fewest:
                    fewest, since = left, time.monotonic()
                elif time.monotonic() - since > STUCK:
                    raise NotExactlyOnce(f"{left} messages are left and nothing moves")
                peak = max(peak, *(resident_mb(pid) for pid in pids))
                progress_bar.update(messages - left - progress_bar.pos)
                time.sleep(LOOK_EVERY)
        return peak


def _table() -> Any:
    return apps.get_model("registry", "Message").objects.all()


def bar(label: str, length: int) -> Any:
    return click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty())


def _watch(pids: Sequence[int], seconds: float) -> Away:
    started = time.monotonic()
    cpu = [cpu_seconds(pid) for pid in pids]
    first = [resident_mb(pid) for pid in pids]
    peak = max(first)
    while time.monotonic() - started < seconds:
        time.sleep(LOOK_EVERY)
        peak = max(peak, *(resident_mb(pid) for pid in pids))
    elapsed = time.monotonic() - started
    used = max(cpu_seconds(pid) - before for pid, before in zip(pids, cpu, strict=True))
    return Away(elapsed, 100 * used / elapsed, max(first), peak)


def _check(ids: Sequence[tuple[UUID, UUID]]) -> None:
    """Hold the table against what was sent. That an id stands there once at most is a constraint of the table."""
    table = _table()
    sent = sum(last.int - first.int + 1 for first, last in ids)
    found = sum(table.filter(uid__gte=first, uid__lte=last).count() for first, last in ids)
    if not found == table.count() == sent:
        raise NotExactlyOnce(f"{sent} messages were sent, {found} of them and {table.count() - found} others stored")
