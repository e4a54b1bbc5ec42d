"""Look messages up: the one way, for the pages and for the API.

A query reads rows newest first from one of two sources, opens each, and keeps those that are meant:

- the message table, by its indexes, in the order of `received_at`;
- where words or parts of a number are asked for, the search index, in the order the messages were stored.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice

from portal import cursors
from portal.counting import CAP, Count, capped_count
from portal.cursors import Position
from portal.opening import Opened, open_message
from portal.wording import Wording
from registry.models import Message, MessageQuerySet
from registry.search import lookup, terms
from registry.search.lookup import Step
from registry.search.terms import LAST4, Term

PAGE = 50
# What one request opens, and how many rows that other filters leave out it looks at, at most: a page may then be short,
# or empty, and still have a next one.
MAX_OPENED, MAX_LOOKED_AT = 2_000, 20_000
_ROWS_AT_A_TIME, _MOST_AT_A_TIME = 200, 900
# Where the order is by id alone.
_NO_TIME = datetime.min.replace(tzinfo=UTC)

# A place, and the row there; None where other filters leave it out.
Look = tuple[Position, Message | None]
# So few rows are worth knowing by their ids before the search index is asked.
_FEW_LEFT = 5_000
# A count looks into at most so many steps of the index beyond the page.
_STEPS_TO_COUNT = 8


@dataclass(frozen=True)
class Page:
    """Some messages, newest first. `next` is the cursor of the page that follows, None on the last one."""

    messages: list[Opened]
    next: str | None
    count: Count


@dataclass(frozen=True)
class MessageQuery:
    """What to look for, everything of it at once.

    `sender` is E.164, `last4` its last four digits, `prefix` + and its first digits. `received_from` is within the
    range, `received_to` is its end, without.
    """

    sender: str | None = None
    last4: str | None = None
    prefix: str | None = None
    words: Wording | None = None
    status: str | None = None
    client: str | None = None
    received_from: datetime | None = None
    received_to: datetime | None = None
    cursor: Position | None = None
    limit: int = PAGE

    @property
    def is_search(self) -> bool:
        """Tell whether personal data is asked for: such a query never goes into a URL."""
        return self.sender is not None or bool(self._terms())

    def page(self) -> Page:
        """Return the page at the cursor. It may be shorter than `limit` and still have a next one."""
        source = _Index(self) if self._terms() and self.sender is None else _Table(self)
        rows = source.rows()
        messages: list[Opened] = []
        last, opened = None, 0
        for looked_at, (position, row) in enumerate(rows):
            if last and (len(messages) == self.limit or opened == MAX_OPENED or looked_at == MAX_LOOKED_AT):
                return Page(messages, cursors.at(last), source.count(messages, more=True))
            last = position
            if row is not None:
                opened += 1
                one = open_message(row)
                messages += [one] if self._is_meant(one) else []
        return Page(messages, None, source.count(messages, more=False))

    def _is_meant(self, one: Opened) -> bool:
        # Two numbers or words may share a truncated hash: only the opened text tells them apart.
        number = one.sender_number or ""
        return (
            (self.sender is None or number == self.sender)
            and (self.last4 is None or number.endswith(self.last4))
            and (self.prefix is None or number.startswith(self.prefix))
            and (self.words is None or (one.message_body is not None and self.words.fits(one.message_body)))
        )

    def _terms(self) -> set[Term]:
        """Return what the search index is to be asked for."""
        wanted = self.words.terms() if self.words else set()
        if self.last4 is not None:
            wanted.add(Term(LAST4, self.last4))
        if self.prefix is not None:
            wanted.add(terms.prefix(self.prefix))
        return wanted

    def _narrowed(self, rows: MessageQuerySet) -> MessageQuerySet:
        wanted = {
            "status": self.status,
            "client": self.client,
            "received_at__gte": self.received_from,
            "received_at__lt": self.received_to,
        }
        return rows.filter(**{name: value for name, value in wanted.items() if value is not None})

    def _steps(self, before: int | None, down_to: int = 0) -> Iterator[Step]:
        return lookup.steps(
            self._terms(),
            before=before,
            down_to=down_to,
            received_from=self.received_from,
            received_to=self.received_to,
        )

    def _is_narrowed(self) -> bool:
        return any(value is not None for value in (self.status, self.client, self.received_from, self.received_to))

    def _index_decides(self) -> bool:
        """Tell whether every row that the index names is meant, but for what waits to be indexed."""
        return (
            not self._is_narrowed()
            and (self.prefix is None or len(self.prefix) <= terms.PREFIX_LENGTHS[-1])
            and (self.words is None or self.words.is_only_words())
        )


def _place(row: Message) -> Position:
    return Position(row.received_at, row.pk)


class _Table:
    """Rows by the message table's own indexes."""

    def __init__(self, query: MessageQuery) -> None:
        self.query = query
        self.narrowed = query._narrowed(Message.objects.all())

    def rows(self) -> Iterator[Look]:
        position, size = self.query.cursor, self.query.limit + 1
        while True:
            some = self._newest(position, size)
            yield from ((_place(row), row) for row in some)
            if len(some) < size:
                return
            position, size = _place(some[-1]), _ROWS_AT_A_TIME

    def _newest(self, position: Position | None, most: int) -> list[Message]:
        rows = self.narrowed if position is None else self.narrowed.older_than(*position)
        if self.query.sender is None:
            return list(rows.newest_first()[:most])
        return rows.newest_from_sender(self.query.sender, most)

    def count(self, messages: list[Opened], more: bool) -> Count:
        if self.query.cursor is None and not more:
            return Count(len(messages), capped=False)
        if self.query._terms():
            return Count(len(messages), capped=True)
        sender = self.query.sender
        return capped_count(self.narrowed if sender is None else self.narrowed.from_sender(sender))


class _Index:
    """Rows by the search index."""

    def __init__(self, query: MessageQuery) -> None:
        self.query = query
        self.before = query.cursor.row_id if query.cursor else None
        self.only = self._only()
        self.steps = query._steps(before=self.before, down_to=min(self.only, default=0) if self.only else 0)
        self.seen: list[Step] = []

    def _only(self) -> set[int] | None:
        """Return which rows the other filters leave, when they are few: no other has to be fetched then."""
        if not self.query._is_narrowed():
            return None
        rows = self.query._narrowed(Message.objects.all()).order_by().values_list("id", flat=True)
        ids = list(rows[: _FEW_LEFT + 1])
        return set(ids) if len(ids) <= _FEW_LEFT else None

    def rows(self) -> Iterator[Look]:
        ids, size = self._ids(), self.query.limit + 1
        while some := list(islice(ids, size)):
            rows = {row.pk: row for row in self.query._narrowed(Message.objects.filter(id__in=some))}
            yield from ((Position(_NO_TIME, row_id), rows.get(row_id)) for row_id in some)
            # With nothing found, many are looked at to fill a page.
            size = min(4 * size, _MOST_AT_A_TIME)

    def _ids(self) -> Iterator[int]:
        if self.only is not None and not self.only:
            return
        for step in self.steps:
            self.seen.append(step)
            for row_id in step.descending():
                if (self.before is None or row_id < self.before) and (self.only is None or row_id in self.only):
                    yield row_id

    def count(self, messages: list[Opened], more: bool) -> Count:
        if self.query.cursor is None and not more:
            return Count(len(messages), capped=False)
        if not self.query._index_decides():
            return Count(len(messages), capped=True)
        before_cursor = self.query._steps(before=None) if self.query.cursor else self.steps
        total, complete = 0, True
        for step in chain(self.seen if self.query.cursor is None else (), islice(before_cursor, _STEPS_TO_COUNT)):
            total += len(step)
            complete = complete and step.is_compared
            if total > CAP:
                return Count(CAP, capped=True)
        complete = complete and next(before_cursor, None) is None
        return Count(total, capped=not complete)
