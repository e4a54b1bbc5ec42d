"""The one door to the data keys: master keys from a file, a derived key per column (HKDF-SHA256, RFC 5869).

The file is JSON, private to its owner:

    {"version": 1,
     "encryption": {"primary": 1, "keys": {"1": "<32 bytes, base64>"}},
     "index":      {"primary": 1, "keys": {"1": "<32 bytes, base64>"}}}

Encryption and index masters are apart, because an index key can be rotated only by rebuilding the index.
"""

import base64
import binascii
import functools
import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from certs_app.files import UnsafeFile, read_secret, write_secret

if not hasattr(settings, "KEY_FILE"):
    raise ImportError(f"a process of role {settings.ROLE} holds no data keys, so it cannot import {__name__}")

KEY_BYTES = 32
_VERSION = 1
_SALT = b"msgsys/v1"


class KeyRingError(Exception):
    """The key file is missing, unsafe or damaged. The message says what to do."""


class KeyMissing(Exception):
    """A stored value names a key that this ring does not have: the operator's to repair, nothing is lost."""


@dataclass(frozen=True)
class Masters:
    """Master keys by id; `primary` seals what is new."""

    primary: int
    keys: Mapping[int, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        if self.primary not in self.keys:
            raise KeyRingError(f"the primary key {self.primary} is not among the keys")
        for key_id, key in self.keys.items():
            if not 0 < key_id < 1 << 32:
                raise KeyRingError(f"key id {key_id} does not fit into 4 bytes")
            if len(key) != KEY_BYTES:
                raise KeyRingError(f"key {key_id} has {len(key)} bytes instead of {KEY_BYTES}")

    def derive(self, key_id: int, purpose: str) -> bytes:
        """Derive the key for one purpose. Raises KeyMissing."""
        try:
            master = self.keys[key_id]
        except KeyError:
            raise KeyMissing(f"key {key_id} is not in the key ring: restore the key file that has it") from None
        return HKDF(hashes.SHA256(), KEY_BYTES, _SALT, purpose.encode()).derive(master)


class KeyRing:
    """Encryption and index keys. Derived keys are cached: deriving costs more than sealing."""

    def __init__(self, encryption: Masters, index: Masters) -> None:
        self.encryption = encryption
        self.index = index
        self._aead = functools.cache(lambda key_id, label: AESGCM(encryption.derive(key_id, f"enc:{label}")))
        self._index_key = functools.cache(lambda purpose: index.derive(index.primary, f"idx:{purpose}"))

    def aead(self, key_id: int, label: str) -> AESGCM:
        """Return the cipher of a column. Raises KeyMissing."""
        cipher: AESGCM = self._aead(key_id, label)
        return cipher

    def token(self, purpose: str, value: bytes, length: int) -> bytes:
        """Return the first `length` bytes of HMAC-SHA256 of `value` under the index key of `purpose`."""
        return hmac.digest(self._index_key(purpose), value, hashlib.sha256)[:length]


def load(path: Path) -> KeyRing:
    """Read a key file. Raises KeyRingError."""
    try:
        document = json.loads(read_secret(path))
        if document["version"] != _VERSION:
            raise KeyRingError(f"the key ring {path} has version {document['version']}, which is not known here")
        return KeyRing(_masters(document["encryption"]), _masters(document["index"]))
    except UnsafeFile as error:
        raise KeyRingError(f"the key ring cannot be used: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise KeyRingError(f"the key ring {path} is damaged: restore it from the backup of the keys") from None


def _masters(part: Mapping[str, Any]) -> Masters:
    keys = {int(key_id): base64.b64decode(value, validate=True) for key_id, value in part["keys"].items()}
    return Masters(int(part["primary"]), keys)


def create(path: Path) -> None:
    """Make a key file with fresh keys. Raises FileExistsError: keys are never overwritten."""

    def fresh() -> dict[str, Any]:
        return {"primary": 1, "keys": {"1": base64.b64encode(os.urandom(KEY_BYTES)).decode()}}

    document = {"version": _VERSION, "encryption": fresh(), "index": fresh()}
    write_secret(path, json.dumps(document, indent=1).encode())


@functools.cache
def ring() -> KeyRing:
    """Return this process's key ring, read once from settings.KEY_FILE. Raises KeyRingError."""
    return load(settings.KEY_FILE)
