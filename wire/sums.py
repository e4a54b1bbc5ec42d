"""Order-free sums of message ids: whoever has the same sum has the same messages (docs/wire.md has a vector).

The digest is the sum, modulo 2**64, of the BLAKE2b (RFC 7693) of each id: 8 bytes, keyed. Ids can be added in any
order, and sums of parts make the sum of the whole. The key is made at random by whoever compares.
"""

import re
from dataclasses import dataclass
from hashlib import blake2b

KEY_BYTES = 16
_MODULUS = 1 << 64
_DIGEST = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Sum:
    """How many ids, and their digest."""

    count: int = 0
    digest: int = 0

    def __add__(self, other: "Sum") -> "Sum":
        return Sum(self.count + other.count, (self.digest + other.digest) % _MODULUS)

    def __sub__(self, other: "Sum") -> "Sum":
        return Sum(self.count - other.count, (self.digest - other.digest) % _MODULUS)

    @property
    def digest_hex(self) -> str:
        return f"{self.digest:016x}"


NOTHING = Sum()


def of(uid: bytes, key: bytes) -> Sum:
    """Return the sum of one id (its 16 bytes)."""
    return Sum(1, int.from_bytes(blake2b(uid, digest_size=8, key=key).digest()))


def of_following(first: int, count: int, key: bytes) -> Sum:
    """Return the sum of `count` ids that follow each other, the first one as a number."""
    total = 0
    for uid in range(first, first + count):
        total += int.from_bytes(blake2b(uid.to_bytes(16), digest_size=8, key=key).digest())
    return Sum(count, total % _MODULUS)


def read_digest(text: str) -> int:
    """Read a digest in hex. Raises ValueError."""
    if not _DIGEST.fullmatch(text):
        raise ValueError("a digest is 16 hex digits")
    return int(text, 16)
