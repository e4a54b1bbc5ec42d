"""The registry's sealing keys (X25519): private ones in a secret file, public ones in a file for ingest.

Both files are JSON: {"primary": 1, "keys": {"1": "<32 bytes, base64>"}}. Ingest seals to the primary; the registry
opens with the key the envelope names, so keys can be exchanged while envelopes are on their way.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from certs_app.files import UnsafeFile, read_secret, write_atomic, write_secret


class SealingKeyError(Exception):
    """A sealing key file is missing, unsafe or damaged."""


def create(private_file: Path, public_file: Path) -> None:
    """Make the first key. Raises FileExistsError."""
    write_secret(private_file, _document(1, {1: X25519PrivateKey.generate().private_bytes_raw()}))
    publish(private_file, public_file)


def publish(private_file: Path, public_file: Path) -> None:
    """Write the public file that belongs to the private one. Raises SealingKeyError."""
    primary, keys = _load_private(private_file)
    write_atomic(
        public_file, _document(primary, {key_id: key.public_key().public_bytes_raw() for key_id, key in keys.items()})
    )


def load_private(file: Path) -> Mapping[int, X25519PrivateKey]:
    """Return the private keys by id. Raises SealingKeyError."""
    return _load_private(file)[1]


def load_public(file: Path) -> tuple[int, X25519PublicKey]:
    """Return the primary key's id and public key. Raises SealingKeyError."""
    try:
        primary, keys = _parse(file.read_bytes())
        return primary, X25519PublicKey.from_public_bytes(keys[primary])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SealingKeyError(f"the public sealing key {file} cannot be used: {error}") from None


def _load_private(file: Path) -> tuple[int, Mapping[int, X25519PrivateKey]]:
    try:
        primary, keys = _parse(read_secret(file))
        return primary, {key_id: X25519PrivateKey.from_private_bytes(raw) for key_id, raw in keys.items()}
    except (UnsafeFile, ValueError, KeyError, TypeError) as error:
        raise SealingKeyError(f"the sealing keys cannot be used: {error}") from None


def _document(primary: int, keys: Mapping[int, bytes]) -> bytes:
    encoded = {str(key_id): base64.b64encode(raw).decode() for key_id, raw in keys.items()}
    return json.dumps({"primary": primary, "keys": encoded}).encode()


def _parse(content: bytes) -> tuple[int, dict[int, bytes]]:
    document: dict[str, Any] = json.loads(content)
    try:
        keys = {int(key_id): base64.b64decode(raw, validate=True) for key_id, raw in document["keys"].items()}
    except (binascii.Error, AttributeError) as error:
        raise ValueError("not a file of sealing keys") from error
    primary = int(document["primary"])
    if primary not in keys:
        raise ValueError(f"its primary key {primary} is not in it")
    return primary, keys
