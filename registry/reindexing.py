"""Bring the search index under the primary index key and the current rules for words."""

from collections.abc import Iterator
from datetime import datetime

from django.db import connection
from django.db.models import Max, Min
from django.utils import timezone

from registry import blind_index, sealing
from registry.checkpoints import BATCH_ROWS, Checkpoint, Outcome, Rows, batches, begin
from registry.fields import EncryptedTextField
from registry.keyring import KeyRing, ring
from registry.models import Message
from registry.search import building, words
from registry.search.building import Overtaken
from registry.search.models import Run, segment_of

_TRIES = 5
_NUMBER: EncryptedTextField = Message._meta.get_field("sender_number")


def outdated() -> list[int]:
    """Return the segments that have a run of another index key, or of other rules for words."""
    current = Run.objects.filter(key_id=ring().index.primary, version=words.VERSION)
    runs = Run.objects.exclude(id__in=current.values("id"))
    return list(runs.order_by("segment").values_list("segment", flat=True).distinct())


def all_segments() -> list[int]:
    """Return every segment that a message can be in."""
    ends = Message.objects.aggregate(oldest=Min("id"), newest=Max("id"))
    if ends["newest"] is None:
        return []
    return list(range(segment_of(ends["oldest"]), segment_of(ends["newest"]) + 1))


def rebuild(segment: int, now: datetime) -> int:
    """Make the runs of a segment anew; return how many messages. Raises Overtaken if others are always quicker."""
    for _ in range(_TRIES - 1):
        try:
            return building.rebuild(segment, now)
        except Overtaken:
            # The jobs process has indexed what is new, or some of it was removed.
            continue
    return building.rebuild(segment, now)


def rebuild_all(now: datetime) -> Iterator[Checkpoint]:
    """Make every segment anew; yield after each. Killed, it goes on where it was."""
    checkpoint = begin(f"reindex all to {ring().index.primary}", now)
    # A checkpoint counts from one, segments from zero.
    for segment in all_segments():
        if segment < checkpoint.last_id:
            continue
        # Not in a transaction: most of it is reading, and nobody is to wait for that.
        rebuild(segment, now)
        checkpoint.last_id, checkpoint.done = segment + 1, checkpoint.done + 1
        checkpoint.save()
        yield checkpoint
    checkpoint.finished_at = timezone.now()
    checkpoint.save()


def senders(now: datetime, rate: int = 0) -> Iterator[Checkpoint]:
    """Write every sender's index value under the primary index key."""
    yield from batches(begin(f"reindex senders to {ring().index.primary}", now), _read, _handle, rate)


def some_sender_under(key_id: int, keys: KeyRing) -> Iterator[tuple[int, bool]]:
    """Look for a row whose sender is found under this index key; yield the last id and whether there is one.

    Every number is opened: the index value alone does not tell. Ends at the first one found.
    """
    last = 0
    while rows := _read(last, BATCH_ROWS):
        last = rows[-1][0]
        numbers = ((_opened(uid, sealed), bytes(index)) for _, uid, sealed, index in rows)
        found = any(number and blind_index.value(number, keys, key_id) == index for number, index in numbers)
        yield last, found
        if found:
            return


def _read(after: int, most: int) -> Rows:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, uid, sender_number, sender_index FROM registry_message WHERE id > %s ORDER BY id LIMIT %s",
            [after, most],
        )
        rows: Rows = cursor.fetchall()
    return rows


def _handle(rows: Rows) -> Outcome:
    changes, outcome = [], Outcome()
    for row_id, uid, sealed, index in rows:
        number = _opened(uid, sealed)
        if number is None:
            outcome.failed += 1
            continue
        wanted = blind_index.sender(number)
        if wanted == bytes(index):
            outcome.skipped += 1
        else:
            changes.append((wanted, row_id, bytes(index)))
    with connection.cursor() as cursor:
        if changes:
            cursor.executemany(
                "UPDATE registry_message SET sender_index = %s WHERE id = %s AND sender_index = %s", changes
            )
            outcome.done = cursor.rowcount
    outcome.skipped += len(changes) - outcome.done
    return outcome


def _opened(uid: bytes, sealed: bytes) -> str | None:
    try:
        return sealing.open_sealed(bytes(sealed), label=_NUMBER.label, uid=bytes(uid), ring=ring())
    except sealing.UNREADABLE:
        return None
