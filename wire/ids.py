"""Message ids: UUIDv7 (RFC 9562 §5.7), made at ingest; the time inside is when the message was received."""

import functools
import os
from datetime import UTC, datetime
from uuid import UUID

_RANDOM_BITS = (1 << 74) - 1


def new_id(now: float) -> UUID:
    """Make a UUIDv7 for the moment `now` (seconds since the epoch)."""
    milliseconds = int(now * 1000) & ((1 << 48) - 1)
    random = int.from_bytes(os.urandom(10), "big") & _RANDOM_BITS
    rand_a, rand_b = random >> 62, random & ((1 << 62) - 1)
    # Starting in the lower half leaves room for `following` to count up without touching the variant bits.
    rand_b &= (1 << 61) - 1
    return UUID(int=milliseconds << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b)


def following(first: UUID, position: int) -> UUID:
    """Return the id at `position` (0-based, below 2**32) of the batch whose first id is `first` (RFC 9562 §6.2)."""
    if not 0 <= position < 1 << 32:
        raise ValueError(f"a batch position lies between 0 and 2**32, not {position}")
    return UUID(int=first.int + position)


def first_of(milliseconds: int) -> UUID:
    """Return what is not above any id of a millisecond since the epoch, and above all ids of the ones before."""
    return UUID(int=max(0, milliseconds) << 80)


def received_at(uid: UUID) -> datetime:
    """Read the time inside a UUIDv7, to the millisecond, UTC.

    Raises ValueError for a UUID of another version.
    """
    if uid.version != 7:
        raise ValueError(f"message ids are UUIDv7, not version {uid.version}")
    return _moment(uid.int >> 80)


# Of the messages of one envelope, most were accepted in the same millisecond.
@functools.lru_cache(maxsize=256)
def _moment(milliseconds: int) -> datetime:
    try:
        whole = datetime.fromtimestamp(milliseconds // 1000, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise ValueError("the time inside the message id is out of range") from error
    return whole.replace(microsecond=milliseconds % 1000 * 1000)
