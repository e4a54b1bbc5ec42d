"""Seal stored values anew, by the primary key. Below the ORM: no signals, no attribute is touched, nothing is lost.

A value is replaced only where the column still holds what was read, so what others write meanwhile stays.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.apps import apps
from django.db import connection, models

from registry import sealing
from registry.checkpoints import BATCH_ROWS, Checkpoint, Outcome, Rows, batches, begin
from registry.fields import EncryptedTextField
from registry.keyring import KeyRing, ring

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bad:
    """A stored value that cannot be opened."""

    uid: str
    column: str
    reason: str

    @classmethod
    def of(cls, uid: bytes, field: EncryptedTextField, error: Exception) -> "Bad":
        bad = cls(bytes(uid).hex(), _column(field), type(error).__name__)
        fields = {"uid": bad.uid, "column": bad.column, "reason": bad.reason}
        logger.error("a stored value cannot be opened", extra=fields)
        return bad


class Table:
    """The sealed columns of one model's table."""

    def __init__(self, model: type[models.Model], fields: list[EncryptedTextField]) -> None:
        self.name = model._meta.db_table
        self.fields = fields
        self._columns = [_quoted(_column(field)) for field in fields]

    def __str__(self) -> str:
        return self.name

    def read(self, after: int, most: int) -> Rows:
        """Return the rows that follow an id: (id, uid, the sealed value of each column …)."""
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id, uid, {', '.join(self._columns)} FROM {_quoted(self.name)} "  # noqa: S608  names of our own
                "WHERE id > %s ORDER BY id LIMIT %s",
                [after, most],
            )
            rows: Rows = cursor.fetchall()
        return rows

    def newest(self) -> int:
        """Return the highest id, 0 when there is none."""
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT MAX(id) FROM {_quoted(self.name)}")  # noqa: S608  a name of our own
            return cursor.fetchone()[0] or 0

    def replace(self, changes: "list[Change]") -> int:
        """Write changed rows; return how many still held what was read."""
        written = 0
        with connection.cursor() as cursor:
            for columns in {tuple(change.old) for change in changes}:
                alike = [change for change in changes if tuple(change.old) == columns]
                sets = ", ".join(f"{_quoted(column)} = %s" for column in columns)
                guards = " AND ".join(f"{_quoted(column)} = %s" for column in columns)
                cursor.executemany(
                    f"UPDATE {_quoted(self.name)} SET {sets} WHERE id = %s AND {guards}",  # noqa: S608  as above
                    [(*change.new.values(), change.row_id, *change.old.values()) for change in alike],
                )
                written += cursor.rowcount
        return written

    def count_by_key(self) -> Counter[int]:
        """Return how many values each key sealed. Reads the whole table."""
        counted: Counter[int] = Counter()
        with connection.cursor() as cursor:
            for column in self._columns:
                # Byte 0 is the version, bytes 2 to 5 are the id; SQL counts from one.
                cursor.execute(
                    f"SELECT SUBSTR({column}, 3, 4) AS key_id, COUNT(*) FROM {_quoted(self.name)} "  # noqa: S608  as above
                    f"WHERE SUBSTR({column}, 1, 1) = %s GROUP BY key_id",
                    [bytes([sealing.VERSION])],
                )
                for key_id, number in cursor.fetchall():
                    counted[int.from_bytes(key_id)] += number
        return counted

    def some_value_opens(self, key_id: int, ring: KeyRing) -> bool:
        """Tell whether any value that names a key opens with it. Reads until it finds one."""
        return any(
            _opens(field, uid, blob, ring)
            for field, column in zip(self.fields, self._columns, strict=True)
            for uid, blob in self._naming(key_id, column)
        )

    def _naming(self, key_id: int, column: str) -> Iterator[tuple[bytes, bytes]]:
        """Yield the uid and the value where a column names a key. In pages: mysqlclient fetches a result as a whole."""
        last, header = 0, [bytes([sealing.VERSION]), key_id.to_bytes(4)]
        while True:
            with connection.cursor() as cursor:
                cursor.execute(
                    f"SELECT id, uid, {column} FROM {_quoted(self.name)} WHERE id > %s "  # noqa: S608  as above
                    f"AND SUBSTR({column}, 1, 1) = %s AND SUBSTR({column}, 3, 4) = %s ORDER BY id LIMIT %s",
                    [last, *header, BATCH_ROWS],
                )
                rows = cursor.fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield from ((uid, blob) for _, uid, blob in rows)


@dataclass(frozen=True)
class Change:
    """One row's values by column, before and after."""

    row_id: int
    old: dict[str, bytes]
    new: dict[str, bytes]


def tables() -> list[Table]:
    """Return every table that has sealed columns."""
    found = []
    for model in apps.get_models():
        fields = [field for field in model._meta.concrete_fields if isinstance(field, EncryptedTextField)]
        if fields:
            found.append(Table(model, fields))
    return found


def count_by_key() -> Counter[int]:
    """Return how many values each encryption key sealed, over all tables."""
    return sum((table.count_by_key() for table in tables()), Counter())


class Resealing:
    """One pass over a table. `report` is told what cannot be opened and is left alone."""

    def __init__(self, table: Table, now: datetime, report: Callable[[Bad], None]) -> None:
        self.table = table
        self._report = report
        # By the key as well: after another promotion, what was done is to be done again.
        self.checkpoint = begin(f"reseal {table} to {ring().encryption.primary}", now)

    def run(self, rate: int = 0) -> Iterator[Checkpoint]:
        """Yield after every batch. A row of several values may count as done and as failed."""
        yield from batches(self.checkpoint, self.table.read, self._handle, rate)

    def _handle(self, rows: Rows) -> Outcome:
        changes, outcome = [], Outcome()
        for row in rows:
            change, bad = self._reseal(*row)
            if change.old:
                changes.append(change)
            elif not bad:
                outcome.skipped += 1
            outcome.failed += bool(bad)
            for one in bad:
                self._report(one)
        outcome.done = self.table.replace(changes)
        # Others were quicker: theirs is the primary key as well, or is found by the next pass.
        outcome.skipped += len(changes) - outcome.done
        return outcome

    def _reseal(self, row_id: int, uid: bytes, *blobs: bytes | None) -> tuple[Change, list[Bad]]:
        change, bad = Change(row_id, {}, {}), []
        for field, blob in zip(self.table.fields, blobs, strict=True):
            try:
                if blob is not None and sealing.key_id_of(bytes(blob)) != ring().encryption.primary:
                    change.new[_column(field)] = _anew(field.label, bytes(uid), bytes(blob))
                    change.old[_column(field)] = bytes(blob)
            except sealing.UNREADABLE as error:
                bad.append(Bad.of(uid, field, error))
        return change, bad


def _anew(label: str, uid: bytes, blob: bytes) -> bytes:
    text = sealing.open_sealed(blob, label=label, uid=uid, ring=ring())
    return sealing.seal(text, label=label, uid=uid, ring=ring())


def verify(table: Table, by_key: Counter[int], report: Callable[[Bad], None]) -> Iterator[int]:
    """Open every value of a table, and count by which key. Yields the last id after some rows."""
    last = 0
    while rows := table.read(last, BATCH_ROWS):
        for _, uid, *blobs in rows:
            for field, blob in zip(table.fields, blobs, strict=True):
                if blob is None:
                    continue
                try:
                    sealing.open_sealed(bytes(blob), label=field.label, uid=bytes(uid), ring=ring())
                    by_key[sealing.key_id_of(bytes(blob))] += 1
                except sealing.UNREADABLE as error:
                    report(Bad.of(uid, field, error))
        last = rows[-1][0]
        yield last


def _column(field: EncryptedTextField) -> str:
    return str(field.column)


def _opens(field: EncryptedTextField, uid: bytes, blob: bytes, ring: KeyRing) -> bool:
    try:
        sealing.open_sealed(bytes(blob), label=field.label, uid=bytes(uid), ring=ring)
    except sealing.UNREADABLE:
        return False
    return True


def _quoted(name: Any) -> str:
    return connection.ops.quote_name(name)
