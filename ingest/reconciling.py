"""The whole comparison at once: everything accepted since some moment, whether it was settled before or not."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from ingest.balance import BalanceSheet
from ingest.books import MINUTE_MS, Books, Missing, Range
from ingest.ledger import HOUR_MS, hour_name
from ingest.ledger_lines import chunks
from ingest.registry_client import RegistryClient
from ingest.waiting import DEAD, QUEUED

# Between two looks: what is on its way from one place to the next arrives.
PAUSE = 2.0

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Row:
    """What became of the messages of one client that were received in one hour (UTC)."""

    hour: str
    client: str
    accepted: int
    stored: int
    queued: int
    dead: int
    unaccounted: int

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Result:
    """`missing` names what is unaccounted, but for hours of which only the sums are left."""

    rows: list[Row]
    missing: list[Missing]

    @property
    def unaccounted(self) -> int:
        return sum(row.unaccounted for row in self.rows)


class NoLedger(Exception):
    """There is nothing to compare on this machine."""


def check_ledger(folder: Path) -> None:
    """Raise NoLedger when this is no machine that accepts messages."""
    if not folder.is_dir():
        raise NoLedger(f"{folder} does not exist: run this where ingest runs, with the MSGSYS_HOME it has")


def reconcile(folder: Path, client: RegistryClient, since: datetime, progress: Progress) -> Result:
    """Compare all of it. Raises RegistryError, redis.RedisError, OSError, sqlite3.Error."""
    since_ms = max(0, int(since.timestamp() * 1000))
    # Books of its own: what was settled is looked at again, and the running comparison is not disturbed.
    with closing(Books(folder, None)) as books:
        kept = folder / "balance.sqlite3"
        if kept.exists():
            books.borrow(kept)
        _take_in(books, since_ms, progress)
        return _compare(books, BalanceSheet(books, client), since_ms, progress)


def _take_in(books: Books, since_ms: int, progress: Progress) -> None:
    files = books.files(since_ms)
    for number, file in enumerate(files):
        progress("reading the ledger", number / len(files))
        books.take_in_file(file)


def _compare(books: Books, sheet: BalanceSheet, since_ms: int, progress: Progress) -> Result:
    ranges = books.all_ranges(since_ms)
    unequal = _settle(sheet, ranges, progress)
    for look in range(2):
        progress("looking for what is not stored", look / 2)
        if look:
            time.sleep(PAUSE)
            unequal = sheet.settle(unequal)
        sheet.compare([one for one in unequal if not _is_reduced(one)])
    progress("counting what waits", 0.9)
    waiting = sheet.count_waiting([one for one in unequal if not _is_reduced(one)])
    missing = list(books.missing())
    lost = Counter((one.start // HOUR_MS, one.client) for one in missing)
    lost += _lost_without_name(sheet, [one for one in unequal if _is_reduced(one)])
    return Result(_rows(_accepted(books, ranges, missing), waiting, lost), missing)


def _settle(sheet: BalanceSheet, ranges: Sequence[Range], progress: Progress) -> list[Range]:
    unequal: list[Range] = []
    for start in range(0, len(ranges), 60):
        progress("asking the registry", start / len(ranges))
        unequal += sheet.settle(ranges[start : start + 60])
    return unequal


def _is_reduced(one: Range) -> bool:
    return one.stop - one.start > MINUTE_MS


def _lost_without_name(sheet: BalanceSheet, ranges: Iterable[Range]) -> Counter[tuple[int, str]]:
    """Count what the registry has less of than it had once; of these hours, no lines with ids are left."""
    lost: Counter[tuple[int, str]] = Counter()
    for one in ranges:
        stored = sheet.stored(one)
        for client, total in sheet.books.expected(one).items():
            found = stored[client].count if client in stored else 0
            if client not in stored or stored[client] != total:
                lost[one.hour, client] += max(1, total.count - found)
    return lost


def _accepted(books: Books, ranges: Iterable[Range], missing: Iterable[Missing]) -> Counter[tuple[int, str]]:
    """Count what was accepted, by hour and client: what the slots say, and what only a replay's line knows."""
    accepted: Counter[tuple[int, str]] = Counter()
    for one in ranges:
        for client, total in books.slots(one).items():
            accepted[one.hour, client] += total.count
    replayed = {uid for entries in books.replays() for one in entries for uid in one.ids()}
    unknown = {one.id: one for one in missing if one.id in replayed}
    for hour in {one.start // HOUR_MS for one in unknown.values()}:
        for entries in books.lines(hour):
            for uid in [uid for one in entries for uid in one.ids() if uid in unknown]:
                del unknown[uid]
    return accepted + Counter((one.start // HOUR_MS, one.client) for one in unknown.values())


def _rows(
    accepted: Counter[tuple[int, str]], waiting: Counter[tuple[int, str, str]], lost: Counter[tuple[int, str]]
) -> list[Row]:
    return [
        _row(hour, client, number, waiting[hour, client, QUEUED], waiting[hour, client, DEAD], lost[hour, client])
        for (hour, client), number in sorted(accepted.items())
    ]


def _row(hour: int, client: str, accepted: int, queued: int, dead: int, lost: int) -> Row:
    # The sums have shown that the rest is stored.
    stored = max(0, accepted - queued - dead - lost)
    return Row(f"{hour_name(hour)}:00Z", client, accepted, stored, queued, dead, lost)


def write_off(books: Books, envelopes: Collection[UUID]) -> tuple[int, set[UUID]]:
    """Give up the messages of dropped envelopes; return how many, and those envelopes that no line knows."""
    # A message has its id up to a minute before its envelope: perhaps in the hour before.
    since_ms = min((one.int >> 80 for one in envelopes), default=0) - HOUR_MS
    unknown, number = {str(one) for one in envelopes}, 0
    wanted = frozenset(unknown)
    for file in books.files(max(0, since_ms)):
        for entries, _ in chunks(file, 0):
            given = [one for one in entries if one.envelope in wanted]
            number += books.give_up(Missing(uid, one.client, one.received_ms) for one in given for uid in one.ids())
            unknown -= {one.envelope for one in given}
    return number, {UUID(one) for one in unknown}


def received_at(one: Missing) -> datetime:
    return datetime.fromtimestamp(one.start / 1000, UTC)
