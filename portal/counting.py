"""Counts that stop: a COUNT(*) over millions of rows takes seconds, one over at most 10,001 takes two milliseconds."""

from typing import Any, NamedTuple

from django.db.models import QuerySet

CAP = 10_000


class Count(NamedTuple):
    """How many rows there are; with `capped`, at least one more than `number`."""

    number: int
    capped: bool

    def __str__(self) -> str:
        return f"{self.number:,}{'+' if self.capped else ''}"


def capped_count(rows: QuerySet[Any]) -> Count:
    """Run SELECT COUNT(*) FROM (SELECT … LIMIT 10001)."""
    number = rows.order_by()[: CAP + 1].count()
    return Count(min(number, CAP), number > CAP)
