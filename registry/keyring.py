"""The one door to the data keys: master keys, and a derived key per column and index (HKDF-SHA256, RFC 5869).

Encryption and index masters are apart, because an index key can be rotated only by rebuilding the index.
registry.key_document has the form they are kept in, registry.key_source where.
"""

import functools
import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils import timezone

from certs_app.files import write_secret
from registry import key_document, key_source
from registry.key_document import ENCRYPTION, INDEX, KEY_BYTES, OPENS, KeyDocument, check_id, check_length
from registry.key_document import KeyRingError as KeyRingError
from registry.key_source import KeyFile, Source

if not hasattr(settings, "KEY_FILE"):
    raise ImportError(f"a process of role {settings.ROLE} holds no data keys, so it cannot import {__name__}")

logger = logging.getLogger(__name__)

_SALT = b"msgsys/v1"


class KeyMissing(Exception):
    """A stored value names a key that this ring does not have: the operator's to repair, nothing is lost."""


@dataclass(frozen=True)
class Masters:
    """Master keys by id, those that open; `primary` seals what is new."""

    primary: int
    keys: Mapping[int, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        if self.primary not in self.keys:
            raise KeyRingError(f"the primary key {self.primary} is not among the keys")
        for key_id, key in self.keys.items():
            check_id(key_id)
            check_length(key_id, key)

    def derive(self, key_id: int, purpose: str) -> bytes:
        """Derive the key for one purpose. Raises KeyMissing."""
        try:
            master = self.keys[key_id]
        except KeyError:
            raise KeyMissing(
                f"key {key_id} is not in the key ring, or retired: restore the key file that has it"
            ) from None
        return HKDF(hashes.SHA256(), KEY_BYTES, _SALT, purpose.encode()).derive(master)

    @classmethod
    def of(cls, document: KeyDocument, kind: str) -> "Masters":
        keys = {key_id: key.material for key_id, key in document.of(kind).items() if key.state in OPENS}
        return cls(document.primary(kind), keys)


class KeyRing:
    """Encryption and index keys. Derived keys are cached: deriving costs more than sealing.

    `newer` returns the ring that is known once this one's source was looked at again: it is asked for unknown keys.
    """

    def __init__(self, encryption: Masters, index: Masters, newer: "Callable[[], KeyRing] | None" = None) -> None:
        self.encryption = encryption
        self.index = index
        self._newer = newer or (lambda: self)
        self._aead = functools.cache(lambda key_id, label: AESGCM(encryption.derive(key_id, f"enc:{label}")))
        self._index_key = functools.cache(lambda purpose, key_id: index.derive(key_id, f"idx:{purpose}"))

    @classmethod
    def of(cls, document: KeyDocument, newer: "Callable[[], KeyRing] | None" = None) -> "KeyRing":
        return cls(Masters.of(document, ENCRYPTION), Masters.of(document, INDEX), newer)

    def aead(self, key_id: int, label: str) -> AESGCM:
        """Return the cipher of a column. Raises KeyMissing."""
        try:
            cipher: AESGCM = self._aead(key_id, label)
        except KeyMissing:
            cipher = self._newer()._aead(key_id, label)
        return cipher

    def index_key(self, purpose: str, key_id: int) -> bytes:
        """Return the 32-byte key of an index. Raises KeyMissing."""
        try:
            key: bytes = self._index_key(purpose, key_id)
        except KeyMissing:
            key = self._newer()._index_key(purpose, key_id)
        return key

    def token(self, purpose: str, value: bytes, length: int, key_id: int | None = None) -> bytes:
        """Return the first `length` bytes of HMAC-SHA256 of `value` under an index key of `purpose`, by default the
        primary one. Raises KeyMissing.
        """
        key = self.index_key(purpose, self.index.primary if key_id is None else key_id)
        return hmac.digest(key, value, hashlib.sha256)[:length]

    def contradicts(self, other: "KeyRing") -> bool:
        """Tell whether both have a key of the same id with different bytes."""
        pairs = ((self.encryption.keys, other.encryption.keys), (self.index.keys, other.index.keys))
        return any(ours[key_id] != theirs[key_id] for ours, theirs in pairs for key_id in ours.keys() & theirs.keys())


class Followed:
    """A source's key ring, read again when the source changes. What cannot be used does not replace what is held."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._ring: KeyRing | None = None
        self._version: object = None
        self._looked = 0.0

    def get(self) -> KeyRing:
        """Return the ring. Raises KeyRingError while there has been none."""
        if self._ring is None or self._is_due(self._source.look_every):
            # While one thread looks, the others go on with what is there.
            self._look(self._source.look_every, wait=self._ring is None)
        assert self._ring is not None
        return self._ring

    def get_for_unknown(self) -> KeyRing:
        """Return the ring, after a look at the source unless one was just taken."""
        self._look(self._source.unknown_every, wait=True)
        return self.get()

    def _is_due(self, every: float) -> bool:
        return time.monotonic() - self._looked >= every

    def _look(self, every: float, *, wait: bool) -> None:
        if not self._lock.acquire(blocking=wait):
            return
        try:
            if self._ring is None:
                self._version = self._source.version()
                self._ring = self._read()
            elif self._is_due(every):
                self._follow(self._ring)
            else:
                return
            self._looked = time.monotonic()
        finally:
            self._lock.release()

    def _follow(self, held: KeyRing) -> None:
        version = self._source.version()
        if version == self._version:
            return
        # Also when it cannot be used: that is said once, not at every look.
        self._version = version
        try:
            ring = self._read()
            if ring.contradicts(held):
                raise KeyRingError("a key of a known id has other bytes: this is another installation's key ring")
        except KeyRingError as error:
            logger.error(
                "the key ring changed and cannot be used; the one read before is kept", extra={"reason": error}
            )
            return
        self._ring = ring
        primaries = {"encryption_primary": ring.encryption.primary, "index_primary": ring.index.primary}
        logger.info("the key ring was read again", extra=primaries)

    def _read(self) -> KeyRing:
        return KeyRing.of(self._source.read(), self.get_for_unknown)


def load(path: Path) -> KeyRing:
    """Read a key file. Raises KeyRingError."""
    return KeyRing.of(KeyFile(path).read())


def create(path: Path) -> None:
    """Make a key file with fresh keys. Raises FileExistsError: keys are never overwritten."""
    write_secret(path, key_document.encode(key_document.first(timezone.now())))


def document() -> KeyDocument:
    """Read what the settings name, now. Raises KeyRingError."""
    return key_source.source(settings.KEY_FILE, settings.KEY_COMMAND).read()


@functools.cache
def _followed() -> Followed:
    # Kept: the settings themselves are slower to ask than a value is to open.
    return Followed(key_source.source(settings.KEY_FILE, settings.KEY_COMMAND))


@receiver(setting_changed)
def _forget(setting: str, **others: Any) -> None:
    if setting in ("KEY_FILE", "KEY_COMMAND"):
        _followed.cache_clear()


def ring() -> KeyRing:
    """Return this process's key ring as its source has it: of a file, within a second. Raises KeyRingError."""
    return _followed().get()
