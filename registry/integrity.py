"""Whether stored messages are what was stored: what of a row its seals, its id and its events do not bear out.

A text is sealed for its row's id, and the time of receipt lies inside that id, so texts or ids that were moved and
dates that were edited show. What nothing vouches for: client, certificate, sent_at, stored_at, and who reported a step.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from registry import blind_index, sealing, tampering
from registry.fields import EncryptedTextField, Sealed
from registry.keyring import ring
from registry.models import Message, MessageQuerySet, StatusEvent
from registry.sealing import UNREADABLE
from registry.search.sources import Source
from registry.steps import PROGRESS, REGISTERED
from wire import ids

_LABELS: dict[str, str] = {}
for _name in tampering.SEALED:
    _field = Message._meta.get_field(_name)
    assert isinstance(_field, EncryptedTextField)
    _LABELS[_name] = _field.label

PAGE = 1000
# A message takes two steps at most, so that of four looks one at least is not between a step's event and its status.
_LOOKS = 4
_SAID = {
    tampering.TAMPERED: "does not open: it was changed, or belongs to another row or column",
    tampering.MALFORMED: "is no sealed value",
    tampering.KEY_MISSING: "is sealed with a key that is not in the key ring",
}


@dataclass(frozen=True)
class Fault:
    """What is wrong with one column, as registry.tampering counts it, and in words."""

    column: str
    reason: str
    what: str


class Verified(NamedTuple):
    """A row: its texts for the search index (None where one does not open), and what is wrong with it."""

    uid: UUID
    source: Source
    faults: list[Fault]


class _Row(NamedTuple):
    id: int
    uid: UUID
    received_at: datetime
    status: str
    sender_index: bytes
    sender_number: Sealed
    message_body: Sealed
    client_reference: Sealed | None


def of_messages(rows: MessageQuerySet) -> Iterator[Verified]:
    """Verify messages in the order of their ids, a page at a time; what looks wrong is looked at again."""
    last = 0
    while page := [
        _Row(*values) for values in rows.filter(id__gt=last).order_by("id").values_list(*_Row._fields)[:PAGE]
    ]:
        steps = _steps([row.id for row in page])
        for row in page:
            found = _verify(row, steps[row.id])
            if found.faults:
                again = _again(row.id)
                if again is None:
                    continue
                found = again
            yield found
        last = page[-1].id


def _again(row_id: int) -> Verified | None:
    """Look at a row until it is well, a few times; None when it was removed meanwhile."""
    for _ in range(_LOOKS - 1):
        values = Message.objects.filter(id=row_id).values_list(*_Row._fields).first()
        if values is None:
            return None
        found = _verify(_Row(*values), _steps([row_id])[row_id])
        if not found.faults:
            break
    return found


def _steps(row_ids: Sequence[int]) -> Mapping[int, list[str]]:
    steps: defaultdict[int, list[str]] = defaultdict(list)
    for row_id, status in StatusEvent.objects.filter(message_id__in=row_ids).values_list("message_id", "status"):
        steps[row_id].append(status)
    return steps


def _verify(row: _Row, steps: Sequence[str]) -> Verified:
    texts, faults = _open(row)
    number = texts["sender_number"]
    faults += _of_time(row)
    if number is not None and row.sender_index not in blind_index.senders(number):
        faults.append(_mismatch("sender_index", "is not that of the sender's number"))
    if not _fits(row.status, steps):
        faults.append(_mismatch("status", "does not follow from the recorded steps"))
    return Verified(row.uid, Source(row.id, row.received_at, number, texts["message_body"]), faults)


def _open(row: _Row) -> tuple[dict[str, str | None], list[Fault]]:
    texts: dict[str, str | None] = {}
    faults = []
    for name in tampering.SEALED:
        sealed = getattr(row, name)
        try:
            texts[name] = sealed and sealing.open_sealed(
                sealed.blob, label=_LABELS[name], uid=row.uid.bytes, ring=ring()
            )
        except UNREADABLE as error:
            texts[name] = None
            reason = tampering.reason_of(error)
            faults.append(Fault(name, reason, _SAID[reason]))
    return texts, faults


def _of_time(row: _Row) -> Iterable[Fault]:
    try:
        inside = ids.received_at(row.uid)
    except ValueError:
        return [_mismatch("received_at", "cannot be told from the id, which is no UUIDv7")]
    if row.received_at != inside:
        return [_mismatch("received_at", "is not the time inside the id")]
    return []


def _fits(status: str, steps: Sequence[str]) -> bool:
    if not set(steps) < set(PROGRESS):
        return False
    furthest = max(steps, key=PROGRESS.__getitem__, default=REGISTERED)
    ends = [step for step in steps if PROGRESS[step] == PROGRESS[furthest]]
    return status == furthest and len(ends) <= 1


def _mismatch(column: str, what: str) -> Fault:
    return Fault(column, tampering.MISMATCH, what)
