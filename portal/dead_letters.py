"""The dead letters as the workers reported them last: what the page of that name shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.contrib.auth.models import AbstractUser, AnonymousUser
from django.core.paginator import Page, Paginator

from portal.counting import Count
from registry.models import DeadLetter, DeadLetterReport
from wire.dead_letters import MAX_REPORTED, Reason, explain

PAGE = 50
# Workers report every minute: five missed reports are no accident.
STALE = timedelta(minutes=5)


@dataclass(frozen=True)
class Report:
    """One queue's last report."""

    row: DeadLetterReport
    stale: bool

    @property
    def total(self) -> Count:
        return Count(self.row.total, capped=False)

    @property
    def is_cut(self) -> bool:
        """Tell whether the queue holds more than a report lists."""
        return self.row.total > MAX_REPORTED


@dataclass(frozen=True)
class Letter:
    row: DeadLetter
    reason: Reason


@dataclass(frozen=True)
class Overview:
    """All reports, and one page of their letters, the newest first."""

    reports: Sequence[Report]
    page: Page[DeadLetter]

    @property
    def total(self) -> Count:
        return Count(sum(report.row.total for report in self.reports), capped=False)

    @property
    def letters(self) -> list[Letter]:
        return [Letter(row, explain(row.code)) for row in self.page]


def may_look(user: AbstractUser | AnonymousUser) -> bool:
    return user.is_staff and user.has_perm("registry.view_deadletter")


def overview(page: str, now: datetime) -> Overview:
    """Return the page of that number; the nearest one when there is no such page any more."""
    rows = DeadLetterReport.objects.order_by("queue")
    reports = [Report(row, stale=now - row.reported_at > STALE) for row in rows]
    # A report lists at most MAX_REPORTED, so counting and skipping cost little.
    letters = Paginator(DeadLetter.objects.select_related("report"), PAGE)
    return Overview(reports, letters.get_page(page))
