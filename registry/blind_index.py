"""Find a sealed value by equality: a truncated keyed hash beside it, under a key of its own.

The hash is cut to 8 bytes and every hit is compared with the opened text, so a collision shows nothing wrong.
"""

from registry.keyring import KeyRing, ring

SENDER_BYTES = 8
PURPOSE = "message.sender:exact"
# The version of the normalisation goes into the hash: numbers are E.164 as wire.rules checks them.
_NORMALISATION = b"n1|"


def value(number: str, keys: KeyRing, key_id: int) -> bytes:
    """Return the index value of an E.164 number under one index key. Raises KeyMissing."""
    return keys.token(PURPOSE, _NORMALISATION + number.encode(), SENDER_BYTES, key_id)


def sender(number: str) -> bytes:
    """Return the index value that a new row of this number gets."""
    keys = ring()
    return value(number, keys, keys.index.primary)


def senders(number: str) -> list[bytes]:
    """Return every index value that a row of this number may have: while an index key is rotated, rows under the
    former, the new and, from another process, a staged one lie side by side.
    """
    keys = ring()
    return [value(number, keys, key_id) for key_id in keys.index.keys]
