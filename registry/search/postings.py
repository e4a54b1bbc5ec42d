"""The rows that have a term, within one run: their bytes, sealed.

Rows are numbered by the low 16 bits of their id; the run knows the rest. The plain form is

    offset  size  field
    0       4     number of rows, big-endian
    4       n     few rows: each as 2 bytes, big-endian, ascending, then zeros up to 4, 8, 16 … 1,024 rows
                  many rows: 8,192 bytes, of which bit r % 8 of byte r // 8 says that row r is among them

Many are more than 4 and more than a 64th of the run's messages. So the lists of all frequent words look alike, and of a
rare one only the power of two shows: what is left to match with the known frequencies of words is next to nothing.

The stored form is a random nonce of 12 bytes, and the plain form under AES-256-GCM with the list's own key; the
additional data is "msgsys-postings-1" and the run as 4 bytes.
"""

import os
import sys
from array import array
from collections.abc import Collection, Iterable, Iterator
from functools import reduce

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from registry.sealing import Tampered

ROWS = 1 << 16
# A list is of many rows from one in so many of the run's messages.
_MANY = 64
_BITMAP_BYTES = ROWS // 8
_SMALLEST = 4
_COUNT_BYTES, _NONCE, _TAG = 4, 12, 16
MAX_STORED_BYTES = _NONCE + _COUNT_BYTES + _BITMAP_BYTES + _TAG
_CONTEXT = b"msgsys-postings-1"


def seal(rows: "array[int]", messages: int, key: bytes, run: int, nonce: bytes | None = None) -> bytes:
    """Seal ascending row numbers (type code H) of a run of so many messages. `nonce` is for test vectors only."""
    nonce = nonce or os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, encode(rows, messages), _CONTEXT + run.to_bytes(4))


def unseal(stored: bytes, key: bytes, run: int) -> "Rows":
    """Open a list. Raises Tampered."""
    try:
        plain = AESGCM(key).decrypt(stored[:_NONCE], stored[_NONCE:], _CONTEXT + run.to_bytes(4))
    except (InvalidTag, ValueError):
        raise Tampered(f"a list of search run {run} was changed, or belongs to another") from None
    return decode(plain)


def encode(rows: "array[int]", messages: int) -> bytes:
    """Return the plain form."""
    count = len(rows).to_bytes(_COUNT_BYTES)
    if len(rows) > max(_SMALLEST, messages // _MANY):
        return count + _bitmap(rows)
    room = max(_SMALLEST, 1 << (len(rows) - 1).bit_length())
    return count + _swapped(rows).tobytes() + bytes(2 * (room - len(rows)))


def decode(plain: bytes) -> "Rows":
    """Read the plain form."""
    count, content = int.from_bytes(plain[:_COUNT_BYTES]), plain[_COUNT_BYTES:]
    if len(content) == _BITMAP_BYTES:
        return Rows(bitmap=content)
    listed = array("H")
    listed.frombytes(content[: 2 * count])
    return Rows(listed=_swapped(listed))


def _swapped(rows: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        return rows
    swapped = array("H", rows)
    swapped.byteswap()
    return swapped


def _bitmap(rows: Iterable[int]) -> bytes:
    bits = bytearray(_BITMAP_BYTES)
    for row in rows:
        bits[row >> 3] |= 1 << (row & 7)
    return bytes(bits)


class Rows:
    """Row numbers of one list: a bitmap (bit r % 8 of byte r // 8) where there are many, listed where there are few."""

    __slots__ = ("bitmap", "listed")

    def __init__(self, listed: Collection[int] = (), bitmap: bytes | None = None) -> None:
        self.bitmap = bitmap
        self.listed = listed

    def __len__(self) -> int:
        return len(self.listed) if self.bitmap is None else int.from_bytes(self.bitmap).bit_count()

    def descending(self) -> Iterator[int]:
        """Yield the row numbers, the highest first."""
        if self.bitmap is None:
            yield from sorted(self.listed, reverse=True)
            return
        for place in range(len(self.bitmap) - 1, -1, -1):
            byte = self.bitmap[place]
            if byte:
                yield from (8 * place + bit for bit in range(7, -1, -1) if byte >> bit & 1)


def common(lists: Iterable[Rows]) -> Rows:
    """Return the rows that are in every list; there is at least one."""
    several = list(lists)
    bitmaps = [rows.bitmap for rows in several if rows.bitmap is not None]
    few = [set(rows.listed) for rows in several if rows.bitmap is None]
    if not few:
        return Rows(bitmap=_both(bitmaps))
    listed = set.intersection(*few)
    for bits in bitmaps:
        listed = {row for row in listed if bits[row >> 3] >> (row & 7) & 1}
    return Rows(listed=listed)


def _both(bitmaps: Iterable[bytes]) -> bytes:
    together = reduce(int.__and__, (int.from_bytes(bits) for bits in bitmaps))
    return together.to_bytes(_BITMAP_BYTES)
