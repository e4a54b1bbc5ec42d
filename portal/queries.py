"""Look messages up: the one way, for the pages and for the API."""

from dataclasses import dataclass
from datetime import datetime

from portal import cursors
from portal.counting import Count, capped_count
from portal.cursors import Position
from portal.opening import Opened, open_message
from registry.models import Message, MessageQuerySet

PAGE = 50


@dataclass(frozen=True)
class Page:
    """Some messages, newest first. `next` is the cursor of the page that follows, None on the last one."""

    messages: list[Opened]
    next: str | None
    count: Count


@dataclass(frozen=True)
class MessageQuery:
    """What to look for. `sender` is E.164; `received_from` is within the range, `received_to` is its end, without."""

    sender: str | None = None
    status: str | None = None
    client: str | None = None
    received_from: datetime | None = None
    received_to: datetime | None = None
    cursor: Position | None = None
    limit: int = PAGE

    def page(self) -> Page:
        """Return the page at the cursor. It may be shorter than `limit` and still have a next one."""
        rows = list(self._from_cursor().newest_first()[: self.limit + 1])
        scanned, more = rows[: self.limit], len(rows) > self.limit
        messages = [opened for opened in map(open_message, scanned) if self._is_meant(opened)]
        complete = self.cursor is None and not more
        count = Count(len(messages), capped=False) if complete else capped_count(self._matching())
        return Page(messages, cursors.after(scanned[-1]) if more else None, count)

    def _is_meant(self, opened: Opened) -> bool:
        # The index is a truncated hash: two numbers may share one, and only the opened text tells them apart.
        return self.sender is None or opened.sender_number == self.sender

    def _from_cursor(self) -> MessageQuerySet:
        matching = self._matching()
        return matching if self.cursor is None else matching.older_than(*self.cursor)

    def _matching(self) -> MessageQuerySet:
        rows = Message.objects.all() if self.sender is None else Message.objects.from_sender(self.sender)
        wanted = {
            "status": self.status,
            "client": self.client,
            "received_at__gte": self.received_from,
            "received_at__lt": self.received_to,
        }
        return rows.filter(**{name: value for name, value in wanted.items() if value is not None})
