"""Verify all that is stored: every message, every run of the search index, every list."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime

from django.db.models import Max, Min

from registry import integrity, tampering
from registry.models import Message
from registry.search import verifying
from registry.search.models import SEGMENT_ROWS, Run, Unindexed, segment_of
from registry.search.sources import in_portions, in_segment
from wire import ids

MESSAGE, RUN, ROW = "message", "run", "row"
_SEEN_BY = "verify_registry"
_IDS_A_STATEMENT = 500


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: with a message (its uid), a run, or what names a row that does not exist."""

    kind: str
    name: str
    what: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.what}"


@dataclass
class Tally:
    """What was looked at. Stale runs are made anew by the jobs process, and are not compared."""

    messages: int = 0
    runs: int = 0
    stale_runs: int = 0
    bad: int = 0


Progress = Callable[[float], None]


def verify(since: datetime | None, tally: Tally, progress: Progress) -> Iterator[Finding]:
    """Yield what is wrong, from the segment on that has the first message received since then."""
    for found in _found(since, tally, progress):
        tally.bad += 1
        yield found


def _found(since: datetime | None, tally: Tally, progress: Progress) -> Iterator[Finding]:
    first, last = _span(since)
    for segment in range(segment_of(first), segment_of(last) + 1):
        rows: set[int] = set()
        for one in integrity.of_messages(in_segment(segment)):
            rows.add(one.source.row_id)
            yield from _of_message(one)
            progress(min(1, (one.source.row_id - first) / (last + 1 - first)))
        tally.messages += len(rows)
        yield from _runs(segment, tally)
        yield from _places(segment, rows)
    for run, number in verifying.without_run():
        yield Finding(RUN, str(run), f"does not exist, and has {number} lists")


def _span(since: datetime | None) -> tuple[int, int]:
    """Return the first and the last row id to look at; with nothing there, the last is below the first."""
    first = 0
    if since is not None:
        # By the ids: a date beside them may have been edited.
        start = ids.first_of(int(since.timestamp() * 1000))
        lowest = Message.objects.filter(uid__gte=start).aggregate(lowest=Min("id"))["lowest"]
        if lowest is None:
            return 0, -1
        first = segment_of(lowest) * SEGMENT_ROWS
    segment = Run.objects.aggregate(highest=Max("segment"))["highest"]
    highest = [
        Message.objects.aggregate(highest=Max("id"))["highest"],
        Unindexed.objects.aggregate(highest=Max("message_id"))["highest"],
        None if segment is None else segment * SEGMENT_ROWS,
    ]
    return first, max((row_id for row_id in highest if row_id is not None), default=-1)


def _of_message(one: integrity.Verified) -> Iterator[Finding]:
    for fault in one.faults:
        tampering.note(one.uid, fault.column, fault.reason, _SEEN_BY)
        yield Finding(MESSAGE, str(one.uid), f"{fault.column} {fault.what}")


def _runs(segment: int, tally: Tally) -> Iterator[Finding]:
    for run in Run.objects.filter(segment=segment).order_by("id"):
        if run.stale:
            tally.stale_runs += 1
            continue
        tally.runs += 1
        for what in verifying.of_run(run):
            yield Finding(RUN, str(run.pk), what)


def _places(segment: int, rows: set[int]) -> Iterator[Finding]:
    wrong = verifying.misplaced(segment, rows)
    for some in in_portions(sorted(wrong), _IDS_A_STATEMENT):
        uids = dict(Message.objects.filter(id__in=some).values_list("id", "uid"))
        for row_id in some:
            kind, name = (MESSAGE, uids[row_id]) if row_id in uids else (ROW, row_id)
            yield Finding(kind, str(name), wrong[row_id])
