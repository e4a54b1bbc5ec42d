"""Take messages out of the registry for good: with their steps, out of the search index, their ids noted as removed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import F

from registry import metrics
from registry.deadlocks import retried
from registry.models import Alias, Message, Removed
from registry.search.models import Run, Unindexed, segment_of

# Rows in one transaction: others wait for their locks no longer than it takes.
BATCH = 500

PURGED, ERASED = "purged", "erased"


@dataclass
class Tally:
    """What was removed, or would be: how many messages of which client, received when, of which segments."""

    clients: Counter[str] = field(default_factory=Counter)
    first_received: datetime | None = None
    last_received: datetime | None = None
    segments: set[int] = field(default_factory=set)

    @property
    def messages(self) -> int:
        return self.clients.total()

    def add(self, row_id: int, client: str, received_at: datetime) -> None:
        self.clients[client] += 1
        self.segments.add(segment_of(row_id))
        self.first_received = min(self.first_received or received_at, received_at)
        self.last_received = max(self.last_received or received_at, received_at)

    def __str__(self) -> str:
        if self.first_received is None or self.last_received is None:
            return "0 messages"
        times = f"{self.first_received:%Y-%m-%d %H:%M} to {self.last_received:%Y-%m-%d %H:%M} UTC"
        return f"{self.messages} message(s) of {len(self.clients)} client(s), received {times}"

    def as_dict(self) -> dict[str, object]:
        times = {"first_received": self.first_received, "last_received": self.last_received}
        return {
            "messages": self.messages,
            "clients": dict(sorted(self.clients.items())),
            **{name: at.isoformat() if at else None for name, at in times.items()},
        }


def remove(row_ids: Sequence[int], removal: str, why: str, tally: Tally) -> None:
    """Remove these messages, at most BATCH, in one transaction, and add them to the tally. Those that are gone already
    are left out. `removal` names the purge or erasure; `why` is PURGED or ERASED.

    Their runs of the search index are stale from then on: until these are made anew, they still hold the sealed lists
    that name the rows, and nothing finds what is not there.
    """
    rows = retried(lambda: _remove(row_ids, removal))
    for row in rows:
        tally.add(row.pk, row.client, row.received_at)
    metrics.REMOVED.labels(why).inc(len(rows))


def _remove(row_ids: Sequence[int], removal: str) -> list[Message]:
    runs = Run.objects.filter(segment__in={segment_of(row_id) for row_id in row_ids})
    # Locked in the order in which the index is built: runs, what waits, messages.
    list(runs.select_for_update().values_list("id"))
    Unindexed.objects.filter(message_id__in=row_ids).delete()
    # Not before: what waited a moment ago may be in a run by now.
    runs.update(stale=True)
    found = Message.objects.filter(id__in=row_ids).only("id", "uid", "client", "accepted_by", "received_at")
    rows = list(found.order_by("id").select_for_update())
    gone = [row.pk for row in rows]
    ids = [(row.uid, row.client, row.accepted_by) for row in rows]
    ids += Alias.objects.filter(message__in=gone).values_list("uid", F("message__client"), "accepted_by")
    Removed.objects.bulk_create(
        [Removed(uid=uid, client=client, accepted_by=by, removal=removal) for uid, client, by in ids],
        ignore_conflicts=True,
    )
    Message.objects.filter(id__in=gone).delete()
    return rows
