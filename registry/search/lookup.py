"""Which rows may have all of some terms, newest first. Only opening a row tells: the caller compares."""

import heapq
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import NamedTuple

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
    # What waits comes first, as in a step. And not MIN and MAX in one statement: SQLite reads the whole table for that.
    waiting = Unindexed.objects.values_list("message_id", flat=True)
    rows = [waiting.order_by("message_id").first(), waiting.order_by("-message_id").first()]
    segments = Run.objects.values_list("segment", flat=True)
    ends = [segments.order_by("segment").first(), segments.order_by("-segment").first()]
    numbers = [number for number in ends if number is not None]
    numbers += [segment_of(row_id) for row_id in rows if row_id is not None]
    if not numbers:
        return -1, 0
    newest = max(numbers)
    return newest if before is None else min(newest, segment_of(before)), min(numbers)


def _runs(last: int, newest: int, times: Times) -> list[_Run]:
    received_from, received_to = times
    rows = Run.objects.filter(segment__range=(last, newest), version=words.VERSION)
    if received_from is not None:
        rows = rows.filter(last_received__gte=received_from)
    if received_to is not None:
        rows = rows.filter(first_received__lt=received_to)
    return [_Run(*row) for row in rows.order_by("id").values_list("id", "segment", "key_id")]


def _waiting(last: int, newest: int) -> list[int]:
    within = Unindexed.objects.filter(message_id__gte=last * SEGMENT_ROWS, message_id__lt=(newest + 1) * SEGMENT_ROWS)
    return list(within.values_list("message_id", flat=True))


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
        for place, sealed in Posting.objects.filter(locator__in=some).values_list("locator", "sealed"):
            run, token = places[place]
            opened.setdefault(run, []).append(_rows(sealed, token, run))
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
    return postings.decode(members) if members else Rows()
