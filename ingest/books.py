"""The books: what the ledger's lines add up to, and what is known of it.

A small SQLite file beside the ledger, so that each step is whole and lasts. The accepted messages are summed per client
and minute of receipt: a slot. A slot is settled once the registry has the same sum, and opens again when a line comes
late. Should the file be lost, it is made anew from the lines, which are kept for two days.
"""

import json
import logging
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from ingest.ledger import HOUR_MS, hour_name
from ingest.ledger_lines import Entry, chunks
from wire import sums
from wire.sums import NOTHING, Sum

logger = logging.getLogger(__name__)

MINUTE_MS = 60_000
KEPT_LINES_MS = 48 * HOUR_MS
REPLAYS_AT_ONCE = 200

_SCHEMA = """
CREATE TABLE IF NOT EXISTS hour (hour INTEGER PRIMARY KEY, key BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS tailed (file TEXT PRIMARY KEY, offset INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS slot (
    start INTEGER, stop INTEGER, client TEXT, count INTEGER NOT NULL, digest TEXT NOT NULL,
    surplus_count INTEGER NOT NULL DEFAULT 0, surplus_digest TEXT NOT NULL DEFAULT '0000000000000000',
    settled INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (start, stop, client)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS open_slot ON slot (start, stop) WHERE settled = 0;
-- What was answered again: it may be in a slot's sum, or not. Its ids are looked for, so twice does no harm.
CREATE TABLE IF NOT EXISTS replay (
    first TEXT PRIMARY KEY, envelope TEXT NOT NULL, messages INTEGER NOT NULL, client TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS missing (
    id TEXT PRIMARY KEY, client TEXT NOT NULL, start INTEGER NOT NULL,
    first_pass INTEGER NOT NULL, last_pass INTEGER NOT NULL, written_off INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
-- A suspicion is a fact once two passes had it, one after the other.
CREATE VIEW IF NOT EXISTS unaccounted AS SELECT id, client, start, last_pass - first_pass AS passes
    FROM missing WHERE written_off = 0 AND first_pass < last_pass;
CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


class Range(NamedTuple):
    """Times of receipt, in milliseconds since the epoch: from `start`, before `stop`."""

    start: int
    stop: int

    @property
    def hour(self) -> int:
        return self.start // HOUR_MS


class Missing(NamedTuple):
    """A message that was accepted and is nowhere."""

    id: UUID
    client: str
    start: int


class Books:
    """The books of one ledger. Used by one thread. `file` None: for one comparison only, in a temporary file."""

    def __init__(self, folder: Path, file: Path | None) -> None:
        self._folder = folder
        self._database = _open(file)
        self._keys: dict[int, bytes] = {}
        self._replays_after = ""

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Do all of what is inside, or nothing."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            self._keys.clear()
            raise
        self._database.execute("COMMIT")

    def key(self, hour: int) -> bytes:
        """Return the key of an hour's digests, made when it is first asked for."""
        if hour not in self._keys:
            if len(self._keys) > 100:
                self._keys.clear()
            made = secrets.token_bytes(sums.KEY_BYTES)
            self._database.execute("INSERT OR IGNORE INTO hour VALUES (?, ?)", (hour, made))
            (self._keys[hour],) = self._database.execute("SELECT key FROM hour WHERE hour = ?", (hour,)).fetchone()
        return self._keys[hour]

    def borrow(self, file: Path) -> None:
        """Take over the keys of other books, and the sums of hours whose lines are gone."""
        self._database.execute("ATTACH DATABASE ? AS other", (str(file),))
        self._database.execute("INSERT OR IGNORE INTO hour SELECT * FROM other.hour")
        self._database.execute("INSERT INTO slot SELECT * FROM other.slot WHERE stop - start = ?", (HOUR_MS,))
        self._database.execute("UPDATE slot SET settled = 0")
        self._database.execute("DETACH DATABASE other")

    # -- from lines to slots

    def files(self, since_ms: int = 0) -> list[Path]:
        """Return the ledger's files, without those of hours that ended before `since_ms`."""
        first = hour_name(since_ms // HOUR_MS)
        return [file for file in sorted(self._folder.glob("*.log")) if file.name >= first]

    def take_in(self) -> None:
        """Add what was written since the last time."""
        for file in self.files():
            self.take_in_file(file)

    def take_in_file(self, file: Path) -> None:
        found = self._database.execute("SELECT offset FROM tailed WHERE file = ?", (file.name,)).fetchone()
        offset = found[0] if found else 0
        for entries, size in chunks(file, offset):
            offset += size
            with self.step():
                self._add(entries)
                self._database.execute("INSERT OR REPLACE INTO tailed VALUES (?, ?)", (file.name, offset))

    def _add(self, entries: Iterable[Entry]) -> None:
        added: defaultdict[tuple[int, str], Sum] = defaultdict(lambda: NOTHING)
        for one in entries:
            if one.replay:
                self._note_replay(one)
                continue
            start = one.received_ms // MINUTE_MS * MINUTE_MS
            key = self.key(start // HOUR_MS)
            added[start, one.client] += sums.of_following(one.first, one.messages, key)
        for (start, client), more in added.items():
            self._put(Range(start, start + MINUTE_MS), client, self._sum(start, client) + more)

    def _note_replay(self, one: Entry) -> None:
        row = (str(UUID(int=one.first)), one.envelope, one.messages, one.client)
        self._database.execute("INSERT OR REPLACE INTO replay VALUES (?, ?, ?, ?)", row)

    def _sum(self, start: int, client: str) -> Sum:
        return self.slots(Range(start, start + MINUTE_MS)).get(client, NOTHING)

    def _put(self, slot: Range, client: str, total: Sum) -> None:
        # What seemed to be too much in the registry was perhaps this: it is looked at anew.
        self._database.execute(
            "INSERT OR REPLACE INTO slot (start, stop, client, count, digest) VALUES (?, ?, ?, ?, ?)",
            (*slot, client, total.count, total.digest_hex),
        )

    def lines(self, hour: int) -> Iterator[list[Entry]]:
        """Yield an hour's lines as far as they are taken in, a few hundred at a time; without replays."""
        for file in sorted(self._folder.glob(f"{hour_name(hour)}.*.log")):
            found = self._database.execute("SELECT offset FROM tailed WHERE file = ?", (file.name,)).fetchone()
            for entries, _ in chunks(file, 0, found[0] if found else 0):
                yield [one for one in entries if not one.replay]

    # -- replays

    def has_replays(self) -> bool:
        return self._database.execute("SELECT 1 FROM replay LIMIT 1").fetchone() is not None

    def replays(self, after: str = "") -> Iterator[list[Entry]]:
        """Yield what was answered again and is not known to be stored, the oldest first, some hundred at a time."""
        query = "SELECT first, envelope, messages, client FROM replay WHERE first > ? ORDER BY first LIMIT ?"
        while rows := self._database.execute(query, (after, REPLAYS_AT_ONCE)).fetchall():
            yield [_replay(row) for row in rows]
            after = rows[-1][0]

    def next_replays(self, most: int) -> Iterator[list[Entry]]:
        """Yield replays of about `most` messages, from where the last call ended; after the last, the oldest again."""
        for entries in self.replays(self._replays_after):
            yield entries
            self._replays_after = str(UUID(int=entries[-1].first))
            most -= sum(one.messages for one in entries)
            if most <= 0:
                return
        self._replays_after = ""

    @property
    def is_round_over(self) -> bool:
        """Has `next_replays` come to the last one?"""
        return not self._replays_after

    def suspected_replays(self) -> Iterator[list[Entry]]:
        """Yield the replays of which something is missing, likewise; others may be among them."""
        rows = self._database.execute(
            "SELECT first, envelope, messages, client FROM replay WHERE first IN"
            " (SELECT (SELECT max(first) FROM replay WHERE first <= id) FROM missing WHERE written_off = 0)"
        ).fetchall()
        for start in range(0, len(rows), REPLAYS_AT_ONCE):
            yield [_replay(row) for row in rows[start : start + REPLAYS_AT_ONCE]]

    def forget_replays(self, entries: Iterable[Entry]) -> None:
        firsts = [(str(UUID(int=one.first)),) for one in entries]
        self._database.executemany("DELETE FROM replay WHERE first = ?", firsts)

    # -- slots

    def open_ranges(self, now_ms: int, grace_ms: int) -> list[Range]:
        """Return the ranges with a slot that is not settled, but for what is arriving just now."""
        rows = self._database.execute(
            # Whose clock was ahead has slots in the future, and must not have to wait for it.
            "SELECT DISTINCT start, stop FROM slot WHERE settled = 0 AND (stop <= ? OR start > ?) ORDER BY start",
            (now_ms - grace_ms, now_ms + MINUTE_MS),
        )
        return [Range(*row) for row in rows]

    def all_ranges(self, since_ms: int = 0) -> list[Range]:
        """Return the ranges of all slots that end after `since_ms`."""
        rows = self._database.execute(
            "SELECT DISTINCT start, stop FROM slot WHERE stop > ? ORDER BY start", (since_ms,)
        )
        return [Range(*row) for row in rows]

    def slots(self, one: Range) -> dict[str, Sum]:
        """Return what was accepted in a range, by client."""
        return {client: total for client, total, _ in self._slots(one)}

    def expected(self, one: Range) -> dict[str, Sum]:
        """Return what the registry has once all of it is stored: what was accepted, and the known surplus."""
        return {client: total + surplus for client, total, surplus in self._slots(one)}

    def _slots(self, one: Range) -> Iterator[tuple[str, Sum, Sum]]:
        rows = self._database.execute(
            "SELECT client, count, digest, surplus_count, surplus_digest FROM slot WHERE start = ? AND stop = ?", one
        )
        for client, count, digest, surplus, surplus_digest in rows:
            yield client, Sum(count, int(digest, 16)), Sum(surplus, int(surplus_digest, 16))

    def settle(self, one: Range, clients: Iterable[str]) -> None:
        self._database.executemany(
            "UPDATE slot SET settled = 1 WHERE start = ? AND stop = ? AND client = ?",
            [(*one, client) for client in clients],
        )

    def settle_as(self, one: Range, client: str, stored: Sum) -> None:
        """Settle a slot with what the registry has, which is not what the lines say, though it has all of those."""
        total = self.slots(one).get(client, NOTHING)
        surplus = stored - total
        self._database.execute(
            "INSERT OR REPLACE INTO slot VALUES (?, ?, ?, ?, ?, ?, ?, 1)",
            (*one, client, total.count, total.digest_hex, surplus.count, surplus.digest_hex),
        )

    # -- what is missing

    @property
    def passes(self) -> int:
        """How many times everything was compared."""
        return self.noted("passes")

    def noted(self, name: str) -> int:
        found = self._database.execute("SELECT value FROM note WHERE name = ?", (name,)).fetchone()
        return int(found[0]) if found else 0

    def note(self, name: str, value: int) -> None:
        self._database.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (name, value))

    def suspect(self, found: Iterable[Missing], number: int) -> None:
        """Note messages that pass `number` found nowhere."""
        self._database.executemany(
            "INSERT INTO missing VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT (id) DO UPDATE SET"
            " first_pass = CASE WHEN last_pass < excluded.last_pass - 1 THEN excluded.first_pass ELSE first_pass END,"
            " last_pass = excluded.last_pass",
            [(str(one.id), one.client, one.start, number, number) for one in found],
        )

    def finish(self, number: int) -> None:
        """Forget the suspicions that pass `number` did not confirm, and count it."""
        self._database.execute("DELETE FROM missing WHERE last_pass < ? AND written_off = 0", (number,))
        self.note("passes", number)

    def first_suspected(self) -> int | None:
        """Return the start of the oldest range in which something is missing."""
        (found,) = self._database.execute("SELECT min(start) FROM missing WHERE written_off = 0").fetchone()
        return None if found is None else int(found)

    def count_missing(self, *, new: bool = False) -> int:
        """Count what two passes running found nowhere; `new`: only what the last one confirmed."""
        query = "SELECT count(*) FROM unaccounted WHERE passes <= ?"
        (found,) = self._database.execute(query, (_span(new),)).fetchone()
        return int(found)

    def missing(self, *, new: bool = False, most: int = -1) -> Iterator[Missing]:
        """Yield what two passes running found nowhere, the oldest first."""
        query = "SELECT id, client, start FROM unaccounted WHERE passes <= ? ORDER BY id LIMIT ?"
        for uid, client, start in self._database.execute(query, (_span(new), most)):
            yield Missing(UUID(uid), client, start)

    def written_off(self, ids: Iterable[UUID]) -> set[UUID]:
        """Return those of some hundred ids that somebody has given up."""
        query = "SELECT id FROM missing WHERE written_off = 1 AND id IN (SELECT value FROM json_each(?))"
        return {UUID(uid) for (uid,) in self._database.execute(query, (json.dumps([str(uid) for uid in ids]),))}

    def write_off(self) -> int:
        """Give up what is missing; return how many messages that are."""
        with self.step():
            query = "UPDATE missing SET written_off = 1 WHERE id IN (SELECT id FROM unaccounted)"
            return self._database.execute(query).rowcount

    def give_up(self, found: Iterable[Missing]) -> int:
        """Give up these messages, whether they are missed yet or not; return how many were not given up before."""
        query = (
            "INSERT INTO missing VALUES (?, ?, ?, 0, 0, 1)"
            " ON CONFLICT (id) DO UPDATE SET written_off = 1 WHERE written_off = 0"
        )
        rows = [(str(one.id), one.client, one.start) for one in found]
        if not rows:
            return 0
        with self.step():
            return self._database.executemany(query, rows).rowcount

    # -- what is old

    def reduce(self, now_ms: int, keep_ms: int) -> None:
        """Keep only the hourly sums of hours that are long over and settled, and nothing older than `keep_ms`."""
        rows = self._database.execute(
            "SELECT DISTINCT start / ? FROM slot WHERE stop <= ? AND stop - start < ?",
            (HOUR_MS, now_ms - KEPT_LINES_MS, HOUR_MS),
        ).fetchall()
        for (hour,) in rows:
            if self._is_settled(hour):
                with self.step():
                    self._reduce(hour)
        for file in self._folder.glob("*.log"):
            self._remove(file, now_ms)
        with self.step():
            self._database.execute("DELETE FROM slot WHERE stop <= ?", (now_ms - keep_ms,))
            self._database.execute("DELETE FROM hour WHERE hour < ?", ((now_ms - keep_ms) // HOUR_MS,))
            self._database.execute("DELETE FROM missing WHERE start < ?", (now_ms - keep_ms,))
            oldest = str(UUID(int=(now_ms - keep_ms) << 80)) if now_ms > keep_ms else ""
            self._database.execute("DELETE FROM replay WHERE first < ?", (oldest,))
        self._keys.clear()

    def _is_settled(self, hour: int) -> bool:
        query = "SELECT 1 FROM slot WHERE settled = 0 AND start >= ? AND start < ? LIMIT 1"
        return self._database.execute(query, (hour * HOUR_MS, (hour + 1) * HOUR_MS)).fetchone() is None

    def _reduce(self, hour: int) -> None:
        whole = Range(hour * HOUR_MS, (hour + 1) * HOUR_MS)
        totals: defaultdict[str, list[Sum]] = defaultdict(lambda: [NOTHING, NOTHING])
        ranges = self._database.execute(
            "SELECT DISTINCT start, stop FROM slot WHERE start >= ? AND start < ?", whole
        ).fetchall()
        for one in ranges:
            for client, total, surplus in self._slots(Range(*one)):
                totals[client][0] += total
                totals[client][1] += surplus
        self._database.execute("DELETE FROM slot WHERE start >= ? AND start < ?", whole)
        self._database.executemany(
            "INSERT INTO slot VALUES (?, ?, ?, ?, ?, ?, ?, 1)",
            [
                (*whole, client, total.count, total.digest_hex, surplus.count, surplus.digest_hex)
                for client, (total, surplus) in totals.items()
            ],
        )

    def _remove(self, file: Path, now_ms: int) -> None:
        """Remove a file of an hour that is reduced. Its offset goes last: without it, its lines would count again."""
        hour_end = (now_ms - KEPT_LINES_MS) // HOUR_MS
        if file.name >= hour_name(hour_end) or not self._is_reduced(file):
            return
        file.unlink(missing_ok=True)
        self._database.execute("DELETE FROM tailed WHERE file = ?", (file.name,))

    def _is_reduced(self, file: Path) -> bool:
        hour = _hour_of(file)
        if hour is None:
            return False
        query = "SELECT 1 FROM slot WHERE start >= ? AND start < ? AND stop - start < ? LIMIT 1"
        found = self._database.execute(query, (hour * HOUR_MS, (hour + 1) * HOUR_MS, HOUR_MS)).fetchone()
        return found is None


def _replay(row: tuple[str, str, int, str]) -> Entry:
    first, envelope, messages, client = row
    return Entry(envelope, UUID(first).int, messages, client, True)


def _span(new: bool) -> int:
    """Return over how many passes a suspicion may reach: one, when only what the last pass confirmed is asked for."""
    return 1 if new else 1 << 62


def _open(file: Path | None) -> sqlite3.Connection:
    """Open the books; damaged ones are put aside, and made anew from the lines."""
    try:
        return _connect(file)
    except sqlite3.DatabaseError as error:
        if file is None or isinstance(error, sqlite3.OperationalError):
            raise
        logger.error("the books of the ledger are damaged: new ones are made", extra={"reason": str(error)})
        for suffix in ("-wal", "-shm"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
        file.replace(file.with_suffix(".damaged"))
        return _connect(file)


def _connect(file: Path | None) -> sqlite3.Connection:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
    database = sqlite3.connect(file or "", timeout=20, isolation_level=None)
    try:
        database.execute("PRAGMA cache_size = -2048")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(_SCHEMA)
        if database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("the file is damaged")
    except BaseException:
        database.close()
        raise
    return database


def _hour_of(file: Path) -> int | None:
    try:
        at = datetime.strptime(file.name[:13], "%Y-%m-%dT%H").replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(at.timestamp()) // 3600
