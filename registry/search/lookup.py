"""Which rows may have all of some terms, newest first. Only opening a row tells: the caller compares."""

import heapq
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple

from django.db import connection

from registry import tampering
from registry.keyring import KeyMissing
from registry.sealing import Tampered
from registry.search import postings, sources, terms, words
from registry.search.models import SEGMENT_ROWS, Posting, Run, Unindexed, locator, segment_of
from registry.search.postings import Rows, common
from registry.search.sources import in_portions
from registry.search.terms import Term

# Most searches end in the newest segment; one that does not looks into more and more at a time: what a step costs is
# four statements, whatever the number of segments.
_MOST_SEGMENTS, _MORE_EACH_TIME = 128, 4
_PLACES_A_STATEMENT = 900
# So many rows are compared at once; when more wait, the index is behind, and each page opens its share of them.
_FEW_WAITING = 1000
# Runs are made anew once in minutes: they do not change during each of so many looks.
_TRIES = 5


Times = tuple[datetime | None, datetime | None]


class _Run(NamedTuple):
    """What a lookup needs to know of a run."""

    id: int
    segment: int
    key_id: int


@dataclass(frozen=True)
class Step:
    """What some neighbouring segments hold: rows of runs, by segment, and ids that wait to be indexed.

    The latter have the terms, too, unless there were too many to look: then `is_compared` is False.
    """

    hits: list[tuple[int, Rows]]
    waiting: list[int]
    is_compared: bool

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.hits) + len(self.waiting)

    def descending(self) -> Iterator[int]:
        """Yield the row ids, the highest first. Lazily: of a frequent word, a page needs only the first few."""
        sources = [_ids(segment, rows) for segment, rows in self.hits]
        merged = heapq.merge(*sources, sorted(self.waiting, reverse=True), reverse=True)
        # What became indexed during the look is in both.
        return (row_id for row_id, _ in groupby(merged))


def _ids(segment: int, rows: Rows) -> Iterator[int]:
    return (segment * SEGMENT_ROWS + number for number in rows.descending())


def steps(
    wanted: Collection[Term],
    *,
    before: int | None = None,
    down_to: int = 0,
    received_from: datetime | None = None,
    received_to: datetime | None = None,
) -> Iterator[Step]:
    """Yield the rows that may have all wanted terms, from the newest segment back to the oldest.

    The first step may hold ids from `before` on, the last one ids below `down_to`, which are not meant. Runs that lie
    outside of the times are left out.
    """
    newest, oldest = _segments(before)
    oldest = max(oldest, segment_of(down_to))
    size = 1
    while newest >= oldest:
        last = max(newest - size + 1, oldest)
        yield _step(wanted, last, newest, (received_from, received_to))
        newest, size = last - 1, min(_MORE_EACH_TIME * size, _MOST_SEGMENTS)


def _step(wanted: Collection[Term], last: int, newest: int, times: Times) -> Step:
    """Look into some segments, while the index may be moving.

    First what waits: what becomes indexed meanwhile is seen twice, instead of not at all. Last, whether the runs are
    still the same: the lists of one that was made anew were gone.
    """
    for _ in range(_TRIES):
        waiting = _waiting(last, newest)
        runs = _runs(last, newest, times)
        hits = _hits(wanted, runs)
        if _runs(last, newest, times) == runs:
            break
    return Step(hits, *_compared(wanted, waiting))


def _segments(before: int | None) -> tuple[int, int]:
    """Return the newest and the oldest segment to look into; with nothing there, the newest is below the oldest."""
    # Not MIN and MAX: SQLite reads the whole table for both in one statement.
    ends = _rows_of(
        f"SELECT (SELECT message_id FROM {_UNINDEXED} ORDER BY message_id LIMIT 1),"  # noqa: S608  names of tables
        f" (SELECT message_id FROM {_UNINDEXED} ORDER BY message_id DESC LIMIT 1),"
        f" (SELECT segment FROM {_RUN} ORDER BY segment LIMIT 1),"
        f" (SELECT segment FROM {_RUN} ORDER BY segment DESC LIMIT 1)",
    )[0]
    numbers = [segment_of(row_id) for row_id in ends[:2] if row_id is not None]
    numbers += [segment for segment in ends[2:] if segment is not None]
    if not numbers:
        return -1, 0
    newest = max(numbers)
    return newest if before is None else min(newest, segment_of(before)), min(numbers)


# By hand: a search that goes back to the oldest segment asks some twenty times, and Django takes as long to write a
# statement down as the database to answer it.
_UNINDEXED, _RUN, _POSTING = (model._meta.db_table for model in (Unindexed, Run, Posting))


def _rows_of(statement: str, parameters: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: Sequence[tuple[Any, ...]] = cursor.fetchall()
    return rows


def _runs(last: int, newest: int, times: Times) -> list[_Run]:
    received_from, received_to = times
    statement = f"SELECT id, segment, key_id FROM {_RUN} WHERE segment BETWEEN %s AND %s AND version = %s"  # noqa: S608  names of tables
    parameters: list[Any] = [last, newest, words.VERSION]
    if received_from is not None:
        statement, parameters = statement + " AND last_received >= %s", [*parameters, _moment(received_from)]
    if received_to is not None:
        statement, parameters = statement + " AND first_received < %s", [*parameters, _moment(received_to)]
    return [_Run(*row) for row in _rows_of(statement + " ORDER BY id", parameters)]


def _moment(at: datetime) -> Any:
    return connection.ops.adapt_datetimefield_value(at)


def _waiting(last: int, newest: int) -> list[int]:
    rows = _rows_of(
        f"SELECT message_id FROM {_UNINDEXED} WHERE message_id >= %s AND message_id < %s",  # noqa: S608  as above
        [last * SEGMENT_ROWS, (newest + 1) * SEGMENT_ROWS],
    )
    return [row_id for (row_id,) in rows]


def _compared(wanted: Collection[Term], waiting: list[int]) -> tuple[list[int], bool]:
    """Keep of what waits the rows that have the terms; of more than a few, keep all."""
    if len(waiting) > _FEW_WAITING:
        return waiting, False
    return [source.row_id for source in sources.of_rows(waiting) if source.has(wanted)], True


def _hits(wanted: Collection[Term], runs: Sequence[_Run]) -> list[tuple[int, Rows]]:
    """Return the rows of each run that have all terms, with the segment they belong to."""
    places: dict[bytes, tuple[_Run, bytes]] = {}
    closed = []
    for run in runs:
        try:
            tokens = [terms.token(term, run.key_id) for term in wanted]
        except KeyMissing:
            closed.append(run)
            continue
        for token in tokens:
            places[locator(run.id, terms.label(token, run.id, run.key_id))] = (run, token)
    opened: dict[_Run, list[Rows]] = {}
    for some in in_portions(list(places), _PLACES_A_STATEMENT):
        slots = ", ".join(["%s"] * len(some))
        found = _rows_of(f"SELECT locator, sealed FROM {_POSTING} WHERE locator IN ({slots})", some)  # noqa: S608  as above
        for place, sealed in found:
            run, token = places[bytes(place)]
            opened.setdefault(run, []).append(_rows(bytes(sealed), token, run))
    # All of a run whose key is missing may have the terms: slower, and nothing is hidden.
    hits = [(run.segment, _members(run)) for run in closed]
    return hits + [(run.segment, common(lists)) for run, lists in opened.items() if len(lists) == len(wanted)]


def _rows(sealed: bytes, token: bytes, run: _Run) -> Rows:
    try:
        return postings.unseal(sealed, terms.list_key(token, run.id, run.key_id), run.id)
    except Tampered:
        # The same as with a missing key, for this term.
        tampering.note_list(run.id)
        return _members(run)


def _members(run: _Run) -> Rows:
    members = Run.objects.filter(id=run.id).values_list("members", flat=True).first()
    try:
        return postings.decode(bytes(members)) if members else Rows()
    except ValueError:
        # Changed past the registry, as well: any of the segment's messages may have been among them.
        return Rows(listed=[row_id % SEGMENT_ROWS for row_id in sources.ids_of_segment(run.segment)])
