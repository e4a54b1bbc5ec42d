"""The balance sheet: every minute, what was accepted is held against what is stored, queued and dead.

    accepted (the ledger)  =  stored (the registry's sums)  +  queued, in hand, dead (Redis)

Sums of ids are compared first, per client and minute. Where they differ, envelopes that wait are taken out of the
account; what is still unequal is narrowed to half seconds, then to ids. What two passes running find nowhere is
unaccounted for. docs/balance.md tells the whole.
"""

import itertools
import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import redis
from django.conf import settings
from filelock import FileLock

from ingest import metrics
from ingest.books import MINUTE_MS, Books, Range
from ingest.comparing import Comparison, Stored, Sums
from ingest.registry_client import RegistryClient, RegistryError, registry
from ingest.waiting import Lookout, QueueState, Waiting
from wire.sums import NOTHING

logger = logging.getLogger(__name__)

# What was received this recently may still be on its way into the ledger.
GRACE_MS = 5000
# Seconds from the start to the first pass.
FIRST_AFTER = 5
# The queue is looked through for at most a twentieth of the time, however long it is.
REST = 20
# Replayed messages that one pass looks for, about: who replays without end must not hold up what is found of others.
REPLAYED_A_PASS = 20_000
# Seconds between looks for hours that are old enough to keep only their sums.
TIDY_EVERY = 600
# Names in one line of the log.
MAX_NAMED = 20
_DAY_MS = 24 * 3_600_000


@dataclass(frozen=True)
class Report:
    """What a pass found. `complete`: all sums were compared, and ids where they differed."""

    queue: QueueState
    unaccounted: int
    settled_until: datetime | None
    complete: bool

    def as_dict(self) -> dict[str, object]:
        """Return what the registry is told."""
        times = {"oldest_at": self.queue.oldest_at, "settled_until": self.settled_until}
        return {
            "depth": self.queue.depth,
            "held": self.queue.held,
            "dead": self.queue.dead,
            "unaccounted": self.unaccounted,
            **{name: at.isoformat() if at else None for name, at in times.items()},
        }


class BalanceSheet:
    """Compares again and again; what is settled is not asked again."""

    def __init__(self, books: Books, client: RegistryClient, clock: Callable[[], float] = time.monotonic) -> None:
        self.books = books
        self._client = client
        self._stored = Stored(client)
        self._lookout = Lookout()
        self._clock = clock
        self._look_through_at = 0.0
        self._tidy_at = 0.0
        self._round_began_ms = 0

    def run(self, now: datetime) -> Report:
        """Compare once and tell the registry. Raises RegistryError, redis.RedisError, OSError, sqlite3.Error."""
        now_ms = int(now.timestamp() * 1000)
        self.books.take_in()
        unequal = self.settle(self.books.open_ranges(now_ms, GRACE_MS))
        state = self._lookout.state()
        complete = self._look_through(unequal, now_ms)
        until = self.books.noted("settled_until")
        settled_until = datetime.fromtimestamp(until / 1000, UTC) if until else None
        report = Report(state, self.books.count_missing(), settled_until, complete)
        self._client.balance(queue=report.as_dict())
        self._tidy(now_ms)
        return report

    def _tidy(self, now_ms: int) -> None:
        if self._clock() >= self._tidy_at:
            self.books.reduce(now_ms, settings.LEDGER_DAYS * _DAY_MS)
            self._tidy_at = self._clock() + TIDY_EVERY

    def settle(self, ranges: Iterable[Range]) -> list[Range]:
        """Settle the ranges in which the registry has what was accepted; return the others."""
        unequal = []
        for hour, of_hour in itertools.groupby(ranges, key=lambda one: one.hour):
            found = self._stored.sums(list(of_hour), self.books.key(hour))
            with self.books.step():
                for one, stored in found.items():
                    expected = self.books.expected(one)
                    equal = [client for client, total in expected.items() if stored.get(client, NOTHING) == total]
                    self.books.settle(one, equal)
                    if len(equal) < len(expected):
                        unequal.append(one)
        return unequal

    def _look_through(self, unequal: Sequence[Range], now_ms: int) -> bool:
        """Compare what is not settled with what waits, unless the last look was too expensive for another so soon."""
        began = self._clock()
        if (unequal or self.books.has_replays()) and began < self._look_through_at:
            return False
        self._round_began_ms = self._round_began_ms or now_ms
        with self._comparison(unequal) as comparison:
            self._compare_sums(comparison, unequal)
            self._tell_of_new()
            comparison.look_for_replays(self.books.next_replays(REPLAYED_A_PASS))
        self._note_boundary()
        took = self._clock() - began
        self._look_through_at = began + REST * took
        return True

    def compare(self, unequal: Sequence[Range]) -> None:
        """Compare ranges, and all replays, down to their ids."""
        with self._comparison(unequal) as comparison:
            self._compare_sums(comparison, unequal)
            comparison.look_for_replays(self.books.replays())

    @contextmanager
    def _comparison(self, unequal: Sequence[Range]) -> Iterator[Comparison]:
        chunks = self._lookout.ids() if unequal or self.books.has_replays() else ()
        with closing(Waiting(chunks)) as waiting:
            yield Comparison(self.books, self._stored, waiting, self.books.passes + 1)

    def _compare_sums(self, comparison: Comparison, unequal: Sequence[Range]) -> None:
        # What the last pass suspected of replays is forgotten below, unless this one finds the same.
        comparison.look_for_replays(self.books.suspected_replays())
        with self.books.step():
            comparison.compare(unequal)
            self.books.finish(self.books.passes + 1)

    def count_waiting(self, ranges: Iterable[Range]) -> Counter[tuple[int, str, str]]:
        """Count what waits of these ranges, by hour, client and place (ingest.waiting)."""
        with closing(Waiting(self._lookout.ids())) as waiting:
            return Comparison(self.books, self._stored, waiting, 0).count_waiting(ranges)

    def stored(self, one: Range) -> Sums:
        """Return what the registry has of a range."""
        return self._stored.sums([one], self.books.key(one.hour))[one]

    def _note_boundary(self) -> None:
        boundary = self.books.noted("settled_until")
        # Of a replay that no pass has come to yet, nothing is claimed.
        if self.books.is_round_over:
            boundary = (self._round_began_ms - GRACE_MS) // MINUTE_MS * MINUTE_MS
            self._round_began_ms = 0
        suspected = self.books.first_suspected()
        self.books.note("settled_until", boundary if suspected is None else min(boundary, suspected))

    def _tell_of_new(self) -> None:
        new = self.books.count_missing(new=True)
        if new:
            named = [str(one.id) for one in self.books.missing(new=True, most=MAX_NAMED)]
            logger.error("accepted messages are unaccounted for", extra={"count": new, "messages": " ".join(named)})


def books() -> Books:
    """Open this home's books."""
    return Books(settings.LEDGER_DIR, settings.LEDGER_DIR / "balance.sqlite3")


def start() -> None:
    """Compare every MSGSYS_BALANCE_SECONDS in a thread, in one process of a home."""
    threading.Thread(target=_run, name="balance", daemon=True).start()


def _run() -> None:
    settings.LEDGER_DIR.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(settings.LEDGER_DIR / ".balance.lock", mode=0o600, thread_local=False).acquire(poll_interval=1):
        # Everything may be starting at once.
        time.sleep(min(FIRST_AFTER, settings.BALANCE_SECONDS))
        sheet: BalanceSheet | None = None
        while True:
            sheet = _pass(sheet)
            time.sleep(settings.BALANCE_SECONDS)


def _pass(sheet: BalanceSheet | None) -> BalanceSheet | None:
    """Run one pass; return the sheet to go on with, None when it has to be opened anew."""
    try:
        if sheet is None:
            sheet = BalanceSheet(books(), registry())
            metrics.UNACCOUNTED.set(sheet.books.count_missing())
        report = sheet.run(datetime.now(UTC))
    except (RegistryError, redis.RedisError) as error:
        # Whoever is away has alarms of its own; what was settled stays so.
        reason = f"{type(error).__name__}: {error}"[:200]
        logger.warning("what was accepted cannot be compared at the moment", extra={"reason": reason})
        return sheet
    except Exception as error:
        # The thread must outlive whatever it meets.
        logger.exception("the comparison of what was accepted failed", extra={"reason": type(error).__name__})
        if sheet is not None and isinstance(error, sqlite3.Error):
            sheet.books.close()
            return None
        return sheet
    metrics.UNACCOUNTED.set(report.unaccounted)
    if report.complete:
        metrics.BALANCED_AT.set_to_current_time()
    return sheet
