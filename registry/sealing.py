"""Stored form of a sealed value: AES-256-GCM, bound to its column and its row (NIST SP 800-38D).

    offset  size  field
    0       1     version, 1
    1       1     flags, 2 = padded (0x80, then zeros, to a multiple of 32)
    2       4     id of the encryption master key, big-endian
    6       12    nonce, random
    18      n     ciphertext
    18+n    16    tag

The additional data is "msgsys" | len16 label | label | len16 uid | uid | bytes 0..5, so a value moved to another row
or column does not open.
"""

import os
import struct

from cryptography.exceptions import InvalidTag

from registry.keyring import KeyMissing, KeyRing

VERSION = 1
PADDED = 2
PAD_TO = 32

_HEADER = struct.Struct(">BBI")
_LENGTH = struct.Struct(">H")
_NONCE, _TAG = 12, 16
OVERHEAD = _HEADER.size + _NONCE + _TAG + PAD_TO


class Tampered(Exception):
    """The value was not sealed for this row and column by the key it names, or was changed since."""


class Malformed(Exception):
    """The stored bytes are not a sealed value of a known version."""


UNREADABLE = (KeyMissing, Tampered, Malformed)


def seal(
    text: str, *, label: str, uid: bytes, ring: KeyRing, key_id: int | None = None, nonce: bytes | None = None
) -> bytes:
    """Seal `text` for one column (`label`) of one row (`uid`), by the primary key unless another is named.

    `nonce` is for test vectors only.
    """
    key_id = ring.encryption.primary if key_id is None else key_id
    header = _HEADER.pack(VERSION, PADDED, key_id)
    nonce = nonce or os.urandom(_NONCE)
    return header + nonce + ring.aead(key_id, label).encrypt(nonce, _pad(text.encode()), _aad(label, uid, header))


def open_sealed(blob: bytes, *, label: str, uid: bytes, ring: KeyRing) -> str:
    """Open a sealed value. Raises KeyMissing, Tampered or Malformed; never returns ciphertext."""
    if len(blob) < _HEADER.size + _NONCE + _TAG:
        raise Malformed(f"{label}: the stored value is too short to be sealed")
    header = blob[: _HEADER.size]
    version, flags, key_id = _HEADER.unpack(header)
    if version != VERSION or flags & ~PADDED:
        raise Malformed(f"{label}: the stored value has unknown version {version} or flags {flags}")
    nonce, sealed = blob[_HEADER.size : _HEADER.size + _NONCE], blob[_HEADER.size + _NONCE :]
    try:
        plain = ring.aead(key_id, label).decrypt(nonce, sealed, _aad(label, uid, header))
    except InvalidTag:
        raise Tampered(f"{label} of row {uid.hex()}: not sealed by key {key_id} for this row and column") from None
    return (_unpad(plain) if flags & PADDED else plain).decode()


def key_id_of(blob: bytes) -> int:
    """Return the id of the key that a value was sealed with. Raises Malformed."""
    if len(blob) < _HEADER.size or blob[0] != VERSION:
        raise Malformed("the stored value is too short to be sealed, or of an unknown version")
    key_id: int = _HEADER.unpack(blob[: _HEADER.size])[2]
    return key_id


def _aad(label: str, uid: bytes, header: bytes) -> bytes:
    name = label.encode()
    return b"msgsys" + _LENGTH.pack(len(name)) + name + _LENGTH.pack(len(uid)) + uid + header


def _pad(plain: bytes) -> bytes:
    return plain + b"\x80" + b"\0" * (-(len(plain) + 1) % PAD_TO)


def _unpad(padded: bytes) -> bytes:
    return padded[: padded.rindex(b"\x80")]
