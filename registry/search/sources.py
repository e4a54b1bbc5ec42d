"""The messages that are to be indexed, opened."""

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar
from uuid import UUID

from registry import sealing, tampering
from registry.fields import EncryptedTextField, Sealed
from registry.keyring import KeyMissing, ring
from registry.models import Message, MessageQuerySet
from registry.search import terms, words
from registry.search.models import SEGMENT_ROWS
from registry.search.terms import Term

_T = TypeVar("_T")
_IDS_A_STATEMENT = 500


class Source(NamedTuple):
    """A message as the index sees it. A text that was changed is None: it can be found by nothing in it.

    With `lacks_key`, some of it is sealed with a key that is not in the key ring: it waits until that is back.
    """

    row_id: int
    received_at: datetime
    sender_number: str | None
    message_body: str | None
    lacks_key: bool = False

    def terms(self) -> set[Term]:
        of_number = terms.of_number(self.sender_number) if self.sender_number is not None else set()
        return of_number | terms.of_body(self.message_body) if self.message_body is not None else of_number

    def has(self, wanted: Collection[Term]) -> bool:
        """Tell whether all of these are among its terms, by less work than making them all."""
        return all(_HAS[term.kind](self, term.text) for term in wanted)


_HAS: dict[str, Callable[[Source, str], bool]] = {
    terms.WORD: lambda source, word: word in words.indexable(words.split(source.message_body or "")),
    terms.LAST4: lambda source, digits: (source.sender_number or "").endswith(digits),
    terms.PREFIX: lambda source, start: (source.sender_number or "").startswith(start),
}


def of_rows(row_ids: Sequence[int]) -> Iterator[Source]:
    """Yield the messages that have these ids, which ascend."""
    for some in in_portions(row_ids, _IDS_A_STATEMENT):
        yield from _opened(Message.objects.filter(id__in=some))


def ids_of_segment(segment: int) -> set[int]:
    """Return the ids of the messages of a segment."""
    return set(in_segment(segment).values_list("id", flat=True))


def in_portions(values: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Cut a sequence into parts of at most `size`: a statement takes only so many parameters."""
    return (values[place : place + size] for place in range(0, len(values), size))


def in_segment(segment: int) -> MessageQuerySet:
    """Return the messages of a segment."""
    return Message.objects.filter(id__gte=segment * SEGMENT_ROWS, id__lt=(segment + 1) * SEGMENT_ROWS)


def _opened(rows: MessageQuerySet) -> Iterator[Source]:
    columns = ("id", "received_at", "uid", "sender_number", "message_body")
    for row_id, received_at, uid, number, body in rows.order_by("id").values_list(*columns).iterator(chunk_size=5000):
        try:
            yield Source(row_id, received_at, _text(_NUMBER, number, uid), _text(_BODY, body, uid))
        except KeyMissing:
            # One changed byte can name a key that never was: that must not stop the others.
            yield Source(row_id, received_at, None, None, lacks_key=True)


_NUMBER: EncryptedTextField = Message._meta.get_field("sender_number")
_BODY: EncryptedTextField = Message._meta.get_field("message_body")


def _text(field: EncryptedTextField, sealed: Sealed, uid: UUID) -> str | None:
    try:
        return sealing.open_sealed(sealed.blob, label=field.label, uid=uid.bytes, ring=ring())
    except (sealing.Tampered, sealing.Malformed) as error:
        tampering.note(uid, field.name, tampering.reason_of(error), "index")
        return None
    except KeyMissing:
        tampering.note(uid, field.name, tampering.KEY_MISSING, "index")
        raise
