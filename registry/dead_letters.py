"""What workers report of their dead letters, for the portal to show: ids, reasons and times, no contents."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Annotated

from django.db import transaction
from msgspec import Meta, Struct

from registry.models import DeadLetter, DeadLetterReport
from wire.dead_letters import CODE, ID, LAST, MAX_REPORTED, SECRET
from wire.problems import FieldError, Problem

# A queue of which nothing is heard for so long is none any more: a Redis that was lost comes back under another name.
FORGOTTEN = timedelta(days=30)


class Letter(Struct, forbid_unknown_fields=True, frozen=True):
    id: Annotated[str, Meta(pattern=ID.pattern)]
    code: Annotated[str, Meta(pattern=CODE.pattern)]
    at: Annotated[int, Meta(ge=0, le=LAST)]


class Report(Struct, forbid_unknown_fields=True, frozen=True):
    """The dead letters of one queue: how many there are, and the newest of them.

    `secret` is known to those who reach that queue's Redis, and to nobody else.
    """

    total: Annotated[int, Meta(ge=0, lt=1 << 31)]
    letters: Annotated[list[Letter], Meta(max_length=MAX_REPORTED)]
    queue: Annotated[str, Meta(pattern=ID.pattern)] = "deliver"
    secret: Annotated[str, Meta(pattern=SECRET.pattern)] | None = None

    @property
    def name(self) -> str:
        """The name it is kept under: every installation calls its queue the same, so the secret tells them apart.

        Only whoever knows the secret can write under it: no given name has a dot. Workers of older versions have none.
        """
        if self.secret is None:
            return self.queue
        return f"{self.queue[:40]}.{hashlib.sha256(self.secret.encode()).hexdigest()[:16]}"

    def check(self) -> None:
        """Raise Problem for what no single field shows."""
        if len({letter.id for letter in self.letters}) < len(self.letters):
            raise _invalid("letters", "repeated", "each letter's id stands in it once")
        if self.total < len(self.letters):
            raise _invalid("total", "too_small", "total counts all letters, those in the list among them")


def record(report: Report, reporter: str, now: datetime) -> None:
    """Put a report in place of its queue's last one, all or nothing. Harmless to repeat; the newest to arrive stays."""
    _forget(report, reporter, now)
    given = {letter.id: letter for letter in report.letters}
    changed = {"total": report.total, "reported_at": now, "reporter": reporter}
    # Once per queue, and before the transaction: two that insert the same row within theirs deadlock on MariaDB.
    DeadLetterReport.objects.get_or_create(queue=report.name, defaults=changed)
    with transaction.atomic():
        # This locks the row: workers that report at once take turns.
        row, _ = DeadLetterReport.objects.update_or_create(queue=report.name, defaults=changed)
        known = {letter.envelope_id: letter for letter in row.letters.all()}
        kept = {name for name, letter in known.items() if _is_same(letter, given.get(name))}
        row.letters.exclude(envelope_id__in=kept).delete()
        DeadLetter.objects.bulk_create(_row(row, letter) for name, letter in given.items() if name not in kept)


def _forget(report: Report, reporter: str, now: datetime) -> None:
    DeadLetterReport.objects.filter(reported_at__lt=now - FORGOTTEN).delete()
    if report.secret is not None:
        # What this worker reported before it was updated.
        DeadLetterReport.objects.filter(queue=report.queue, reporter=reporter).delete()


def _is_same(row: DeadLetter, letter: Letter | None) -> bool:
    return letter is not None and (row.code, row.at) == (letter.code, _moment(letter))


def _row(report: DeadLetterReport, letter: Letter) -> DeadLetter:
    return DeadLetter(report=report, envelope_id=letter.id, code=letter.code, at=_moment(letter))


def _moment(letter: Letter) -> datetime:
    return datetime.fromtimestamp(letter.at, UTC)


def _invalid(field: str, code: str, detail: str) -> Problem:
    return Problem("invalid_request", detail, [FieldError(field, code, detail)])
