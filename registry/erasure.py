"""Erase the messages of one sender, as a person may ask for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from certs_app import audit
from certs_app.audit import Actor
from registry import removal
from registry.models import Message
from registry.removal import BATCH, ERASED, Tally
from registry.sealing import UNREADABLE
from registry.search import building
from registry.search.building import Overtaken
from registry.search.sources import in_portions
from wire import ids

_TRIES = 5
_ROWS_AT_A_TIME = 2_000

Progress = Callable[[float, str], None]


@dataclass
class Report:
    """What was erased, or would be. `unreadable` rows may be the sender's, too: they do not open, and were left.

    `stale_segments` of the search index could not be made anew at once; the jobs process does it.
    """

    name: str
    tally: Tally = field(default_factory=Tally)
    unreadable: int = 0
    stale_segments: int = 0


def find(number: str) -> Report:
    """Count the messages of a sender, given in E.164."""
    report = Report("")
    for row in _rows(number, report):
        report.tally.add(row.pk, row.client, row.received_at)
    return report


def erase(number: str, reason: str, now: datetime, by: Actor, progress: Progress) -> Report:
    """Remove every message of a sender, given in E.164, and make the search index anew without them."""
    report = Report(f"erasure:{ids.new_id(now.timestamp())}")
    try:
        # Again, until a look finds none: messages go on arriving.
        while row_ids := [row.pk for row in _rows(number, report)]:
            for some in in_portions(row_ids, BATCH):
                removal.remove(some, report.name, ERASED, report.tally)
                progress(0, f"{report.tally.messages} messages erased")
    finally:
        audit.record(audit.ERASED, by, report.name, now, f"{report.tally}: {reason or 'no reason given'}")
    segments = sorted(report.tally.segments)
    for position, segment in enumerate(segments):
        progress(position / len(segments), "making the search index anew")
        report.stale_segments += not _refresh(segment, now)
    return report


def _rows(number: str, report: Report) -> Iterator[Message]:
    """Yield the sender's messages: the index is a truncated hash, so the opened number decides."""
    report.unreadable = 0
    columns = ("id", "uid", "client", "received_at", "sender_number")
    for row in Message.objects.from_sender(number).only(*columns).in_pages(_ROWS_AT_A_TIME):
        try:
            if row.sender_number == number:
                yield row
        except UNREADABLE:
            report.unreadable += 1


def _refresh(segment: int, now: datetime) -> bool:
    for _ in range(_TRIES):
        try:
            building.refresh(segment, now)
        except Overtaken:
            continue
        return True
    return False
