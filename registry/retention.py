"""How long messages are kept, and the purge of those that are older."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings

from certs_app import audit, per_client
from certs_app.audit import Actor
from certs_app.per_client import BadNumbers
from registry import removal
from registry.models import Message, MessageQuerySet, Removed
from registry.removal import BATCH, PURGED, Tally
from wire import ids

# Within a day, ingest's clients may send a request again under the same idempotency key, and the stored message is what
# tells that it is the same; a message may wait about as long in the queue while the registry is repaired.
MIN_DAYS = 2
MOST_DAYS = 36_500
_COUNTED_AT_A_TIME = 5_000


@dataclass(frozen=True)
class Policy:
    """Days for which messages are kept, by client, and for all others; 0 is for ever."""

    days: int
    of_client: Mapping[str, int]

    def end(self, client: str, now: datetime) -> datetime | None:
        """Return the time before which a client's messages are to go; None when they are kept for ever."""
        days = self.of_client.get(client, self.days)
        return now - timedelta(days=days) if days else None

    @property
    def keeps_all(self) -> bool:
        return not self.days and not any(self.of_client.values())


def policy() -> Policy:
    """Read the policy of the settings. Raises BadNumbers: nothing is purged by a policy that is half known."""
    file = settings.RETENTION_FILE
    found = Policy(settings.RETENTION_DAYS, per_client.read(file, what="retention", most=MOST_DAYS) if file else {})
    for name, days in [("MSGSYS_RETENTION_DAYS", found.days), *found.of_client.items()]:
        if 0 < days < MIN_DAYS:
            raise BadNumbers(f"{name}: messages are kept for at least {MIN_DAYS} days, or for ever (0), not for {days}")
    return found


def expired(rules: Policy, now: datetime) -> Tally:
    """Count what is older than it may be."""
    tally = Tally()
    for client, end in _ends(rules, now):
        for row in _expired(client, end).only("id", "received_at").in_pages(_COUNTED_AT_A_TIME):
            tally.add(row.pk, client, row.received_at)
    return tally


def purge(rules: Policy, now: datetime, by: Actor, *, seconds: float | None = None) -> tuple[Tally, bool]:
    """Remove what is older than it may be, for so many seconds at most; return what went, and whether that was all."""
    name, tally = f"purge:{ids.new_id(now.timestamp())}", Tally()
    until = None if seconds is None else time.monotonic() + seconds
    try:
        for client, end in _ends(rules, now):
            while row_ids := list(_expired(client, end).values_list("id", flat=True)[:BATCH]):
                removal.remove(row_ids, name, PURGED, tally)
                if until is not None and time.monotonic() >= until:
                    return tally, False
        _forget(now - timedelta(days=settings.LEDGER_DAYS))
        return tally, True
    finally:
        if tally.messages:
            audit.record(audit.PURGED, by, name, now, str(tally))


def _ends(rules: Policy, now: datetime) -> Iterator[tuple[str, datetime]]:
    for client in _clients():
        end = rules.end(client, now)
        if end is not None:
            yield client, end


def _clients() -> Iterator[str]:
    """Yield the clients that have messages, from one to the next in the index: DISTINCT would read all of it."""
    names = Message.objects.order_by("client").values_list("client", flat=True)
    client = names.first()
    while client is not None:
        yield client
        client = names.filter(client__gt=client).first()


def _expired(client: str, end: datetime) -> MessageQuerySet:
    # By the time inside the id as well: an edited date must not make the registry itself remove the evidence.
    old = Message.objects.filter(client=client, received_at__lt=end, uid__lt=_first_id(end))
    return old.order_by("received_at", "id")


def _first_id(at: datetime) -> UUID:
    return ids.first_of(int(at.timestamp() * 1000))


def _forget(end: datetime) -> None:
    """Forget ids that were removed, and received so long ago that no ledger has them any more."""
    old = Removed.objects.filter(uid__lt=_first_id(end)).order_by("uid").values_list("uid", flat=True)
    while uids := list(old[:BATCH]):
        Removed.objects.filter(uid__in=uids).delete()
