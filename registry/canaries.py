"""A known text under every key that data was ever written with: a key ring that does not fit the data is found by it.

The canary of an encryption key is `TEXT`, sealed for the column `registry.canary` of a row whose uid is the key's id;
that of an index key is the HMAC of `TEXT` for the purpose `canary`. Who may write makes them when a key is first seen,
unless stored rows say that it is not theirs.
"""

import hashlib
import hmac
from collections.abc import Iterator
from datetime import datetime
from typing import ClassVar

from django.db import models

from registry import sealing, witnesses
from registry.fields import BoundedBinaryField
from registry.key_document import DESTROYED, ENCRYPTION, INDEX, KeyDocument, KeyRingError
from registry.keyring import KeyRing, Masters, ring

TEXT = "the canary of msgsys"
LABEL = "registry.canary"
PURPOSE = "canary"
_MAX_BYTES = 96


class Canary(models.Model):
    """What one key made of the known text."""

    kind = models.CharField(max_length=10)
    key_id = models.PositiveBigIntegerField()
    value = BoundedBinaryField(max_bytes=_MAX_BYTES)
    made_at = models.DateTimeField()

    class Meta:
        db_table = "registry_canary"
        verbose_name_plural = "canaries"
        constraints: ClassVar = [models.UniqueConstraint(fields=["kind", "key_id"], name="canary_once_per_key")]

    def __str__(self) -> str:
        return f"canary of {self.kind} key {self.key_id}"


def make_missing(now: datetime, keys: KeyRing | None = None) -> None:
    """Make the canary of each key that opens and has none: of this process's ring, unless another is given.

    Raises KeyRingError, and makes none, when rows contradict one of these keys.
    """
    keys = keys or ring()
    there = set(Canary.objects.values_list("kind", "key_id"))
    held = {(ENCRYPTION, key_id) for key_id in keys.encryption.keys} | {(INDEX, key_id) for key_id in keys.index.keys}
    if not held - there:
        return
    _refuse(witnesses.misfits(keys, there))
    for kind, key_id in sorted(held - there):
        made = {"value": _value(keys, kind, key_id), "made_at": now}
        # Not create(): of two processes that start at once, one finds it made.
        Canary.objects.get_or_create(kind=kind, key_id=key_id, defaults=made)


def misfits(document: KeyDocument) -> Iterator[tuple[str, int]]:
    """Yield the keys, by kind and id, whose bytes are not those that the data was written with."""
    there = set()
    for canary in Canary.objects.order_by("kind", "key_id"):
        there.add((canary.kind, canary.key_id))
        key = document.of(canary.kind).get(canary.key_id)
        if key is not None and key.state != DESTROYED and not _fits(canary, key.material):
            yield canary.kind, canary.key_id
    yield from witnesses.misfits(KeyRing.of(document), there)


def check(document: KeyDocument) -> None:
    """Raise KeyRingError for a key ring that is not the data's."""
    _refuse(misfits(document))


def missing(document: KeyDocument) -> Iterator[tuple[str, int]]:
    """Yield the keys, by kind and id, that data was written with and that the key ring knows nothing of."""
    for kind, key_id in Canary.objects.order_by("kind", "key_id").values_list("kind", "key_id"):
        if key_id not in document.of(kind):
            yield kind, key_id


def _refuse(wrong: Iterator[tuple[str, int]]) -> None:
    for kind, key_id in wrong:
        raise KeyRingError(f"{kind} key {key_id} is not the one that the data was written with")


def _value(keys: KeyRing, kind: str, key_id: int) -> bytes:
    if kind == ENCRYPTION:
        return sealing.seal(TEXT, label=LABEL, uid=_uid(key_id), ring=keys, key_id=key_id)
    return keys.token(PURPOSE, TEXT.encode(), hashlib.sha256().digest_size, key_id)


def _fits(canary: Canary, material: bytes) -> bool:
    masters = Masters(canary.key_id, {canary.key_id: material})
    keys = KeyRing(masters, masters)
    if canary.kind == INDEX:
        return hmac.compare_digest(canary.value, _value(keys, INDEX, canary.key_id))
    try:
        opened = sealing.open_sealed(canary.value, label=LABEL, uid=_uid(canary.key_id), ring=keys)
    except sealing.UNREADABLE:
        return False
    return opened == TEXT


def _uid(key_id: int) -> bytes:
    return key_id.to_bytes(16)
