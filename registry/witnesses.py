"""What stored rows say about keys that have no canary yet, as after an upgrade: both ends of the table are asked.

A sender's number names its encryption key. Its index value names none: it fits one of the index keys, or none.
"""

from collections.abc import Collection, Iterator

from django.db import connection

from registry import blind_index, sealing
from registry.key_document import ENCRYPTION, INDEX
from registry.keyring import KeyRing

# Of each end: a key that came by a rotation has sealed the newest rows, the one before it the oldest.
_ROWS = 200
# As the model has it, whose module imports the canaries.
_LABEL = "registry.message.sender_number"


def misfits(keys: KeyRing, vouched: Collection[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Yield the keys, by kind and id, that rows contradict; none of those that are vouched for already."""
    opened: dict[int, bool] = {}
    found: list[bool] = []
    for uid, sealed, index in _ends():
        named, number = _open(sealed, uid, keys)
        if named is not None:
            # One that opens is enough: a damaged row accuses no key.
            opened[named] = number is not None or opened.get(named, False)
        if number is not None:
            found.append(any(blind_index.value(number, keys, key_id) == index for key_id in keys.index.keys))
    accused = {(ENCRYPTION, key_id) for key_id in keys.encryption.keys if not opened.get(key_id, True)}
    # Where no key of a kind is vouched for, one of them must fit; else those of the rows may be lost, which is known.
    kinds = {kind for kind, _ in vouched}
    if opened and not any(opened.values()) and ENCRYPTION not in kinds:
        accused.add((ENCRYPTION, keys.encryption.primary))
    if found and not any(found) and INDEX not in kinds:
        accused.add((INDEX, keys.index.primary))
    yield from sorted(accused.difference(vouched))


def _ends() -> Iterator[tuple[bytes, bytes, bytes]]:
    with connection.cursor() as cursor:
        for order in ("DESC", "ASC"):
            cursor.execute(
                f"SELECT uid, sender_number, sender_index FROM registry_message ORDER BY id {order} LIMIT %s",  # noqa: S608  words of our own
                [_ROWS],
            )
            for values in cursor.fetchall():
                uid, sealed, index = map(bytes, values)
                yield uid, sealed, index


def _open(sealed: bytes, uid: bytes, keys: KeyRing) -> tuple[int | None, str | None]:
    """Return the key that a number names, and the number: None where there is none, or it does not open."""
    try:
        named = sealing.key_id_of(sealed)
    except sealing.Malformed:
        return None, None
    try:
        return named, sealing.open_sealed(sealed, label=_LABEL, uid=uid, ring=keys)
    except sealing.UNREADABLE:
        return named, None
