"""What the registry says when an ingest compares what it accepted with what is stored here."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from uuid import UUID

from django.db.models import F

from registry.models import Alias, Message, QueueReport, Removed
from wire import ids, sums
from wire.sums import NOTHING, Sum

# Milliseconds since the epoch: from, and to, which is not in it.
Range = tuple[int, int]

# What one call may cost: beyond, the caller asks for the rest in another. One range is always answered.
MAX_ROWS = 100_000
_PAGE = 5000


def stored(ingest: str, ranges: Sequence[Range], key: bytes) -> list[dict[str, Sum]]:
    """Sum by client what came from this ingest and was received in each range; the later ranges may be left out."""
    found: list[dict[str, Sum]] = []
    rows = 0
    for one in ranges:
        by_client = _by_client(ingest, one, key)
        found.append(by_client)
        rows += sum(total.count for total in by_client.values())
        if rows >= MAX_ROWS:
            break
    return found


def unknown(ingest: str, ids: Sequence[UUID]) -> tuple[list[UUID], list[UUID]]:
    """Return those of `ids` that are not stored as accepted by this ingest, and which of them another accepted."""
    found = [
        *Message.objects.filter(uid__in=ids).values_list("uid", "accepted_by"),
        *Alias.objects.filter(uid__in=ids).values_list("uid", "accepted_by"),
        *Removed.objects.filter(uid__in=ids).values_list("uid", "accepted_by"),
    ]
    own = {uid for uid, signer in found if signer == ingest}
    # What was posted in the clear, no ingest has signed for.
    others = {uid for uid, signer in found if signer} - own
    return [uid for uid in ids if uid not in own], [uid for uid in ids if uid in others]


def report(ingest: str, now: datetime, **said: object) -> None:
    """Keep what an ingest says of its queue, in place of what it said before."""
    QueueReport.objects.update_or_create(ingest=ingest, defaults={**said, "reported_at": now})


def _by_client(ingest: str, one: Range, key: bytes) -> dict[str, Sum]:
    totals: defaultdict[str, Sum] = defaultdict(lambda: NOTHING)
    for uid, client in _ids(ingest, one):
        totals[client] += sums.of(uid.bytes, key)
    return totals


def _ids(ingest: str, one: Range) -> Iterator[tuple[UUID, str]]:
    """Walk the unique index of uids, a page at a time: no driver holds a whole range in memory."""
    own = {"accepted_by": ingest}
    messages = Message.objects.filter(**own).annotate(owner=F("client"))
    aliases = Alias.objects.filter(**own).annotate(owner=F("message__client"))
    # What was purged or erased was stored: whoever accepted it must not miss it.
    removed = Removed.objects.filter(**own).annotate(owner=F("client"))
    for rows in (messages, aliases, removed):
        last, end = (ids.first_of(moment) for moment in one)
        page = list(rows.filter(uid__gte=last, uid__lt=end).order_by("uid").values_list("uid", "owner")[:_PAGE])
        while page:
            yield from page
            last = page[-1][0]
            page = list(rows.filter(uid__gt=last, uid__lt=end).order_by("uid").values_list("uid", "owner")[:_PAGE])
