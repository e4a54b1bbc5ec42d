"""The envelope: 1 to 100 messages, sealed to the registry (HPKE, RFC 9180) and signed by ingest.

    offset  size  field
    0       1     version, 1
    1       1     suite, 1 = DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM; ECDSA P-256 with SHA-256
    2       4     id of the registry's sealing key, big-endian
    6       16    envelope id, UUIDv7
    22      32    SHA-256 of the signer's certificate (DER)
    54      2     length of the signature, big-endian
    56      n     signature, ASN.1 DER, over "msgsys signature v1" | bytes 0..53 | sealed
    56+n    rest  sealed: HPKE encapsulated key (32) | ciphertext | tag (16)

HPKE's `info` is "msgsys envelope v1" | bytes 0..53, so no header field can be changed without the seal breaking.
The plain text is the canonical JSON list of messages, padded with spaces to a multiple of 64 bytes.
docs/wire.md has the test vectors.
"""

import struct
from dataclasses import dataclass
from uuid import UUID

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

VERSION = 1
SUITE = 1
MAX_MESSAGES = 100
MAX_BYTES = 1 << 20

_HEADER = struct.Struct(">BBI16s32s")
_LENGTH = struct.Struct(">H")
_PAD_TO = 64
_ENCAPSULATED_AND_TAG = 32 + 16
_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_ECDSA = ec.ECDSA(hashes.SHA256())


class EnvelopeError(Exception):
    """An envelope that can never be accepted. `code` is stable and travels in the registry's answer."""

    code = "malformed_envelope"


class BadSignature(EnvelopeError):
    code = "bad_signature"


class BadSeal(EnvelopeError):
    code = "bad_seal"


@dataclass(frozen=True)
class Envelope:
    """A parsed envelope: nothing in it is verified yet."""

    header: bytes
    key_id: int
    id: UUID
    signer: bytes
    signature: bytes
    sealed: bytes

    def verify(self, public_key: ec.EllipticCurvePublicKey) -> None:
        """Check the signature. Raises BadSignature."""
        try:
            public_key.verify(self.signature, _signed(self.header, self.sealed), _ECDSA)
        except InvalidSignature:
            raise BadSignature(f"envelope {self.id}: the signature does not fit") from None

    def open(self, private_key: X25519PrivateKey) -> bytes:
        """Return the plain text (padded JSON). Raises BadSeal."""
        try:
            return _HPKE.decrypt(self.sealed, private_key, info=_info(self.header))
        except (InvalidTag, ValueError):
            raise BadSeal(f"envelope {self.id}: not sealed to key {self.key_id}") from None


def seal(
    plain: bytes,
    *,
    envelope_id: UUID,
    key_id: int,
    recipient: X25519PublicKey,
    signer: bytes,
    signing_key: ec.EllipticCurvePrivateKey,
) -> bytes:
    """Seal and sign `plain` (canonical JSON). `signer` is the SHA-256 of the signing certificate."""
    header = _HEADER.pack(VERSION, SUITE, key_id, envelope_id.bytes, signer)
    padded = plain + b" " * (-len(plain) % _PAD_TO)
    sealed = _HPKE.encrypt(padded, recipient, info=_info(header))
    signature = signing_key.sign(_signed(header, sealed), _ECDSA)
    return header + _LENGTH.pack(len(signature)) + signature + sealed


def parse(blob: bytes) -> Envelope:
    """Split an envelope into its parts. Raises EnvelopeError when it is not one of this version."""
    start = _HEADER.size + _LENGTH.size
    if len(blob) < start:
        raise EnvelopeError("the envelope is too short")
    version, suite, key_id, envelope_id, signer = _HEADER.unpack_from(blob)
    if (version, suite) != (VERSION, SUITE):
        raise EnvelopeError(f"envelope version {version}, suite {suite} is not known here")
    (length,) = _LENGTH.unpack_from(blob, _HEADER.size)
    if len(blob) < start + length + _ENCAPSULATED_AND_TAG:
        raise EnvelopeError("the envelope is cut short")
    return Envelope(
        header=blob[: _HEADER.size],
        key_id=key_id,
        id=UUID(bytes=envelope_id),
        signer=signer,
        signature=blob[start : start + length],
        sealed=blob[start + length :],
    )


def _info(header: bytes) -> bytes:
    return b"msgsys envelope v1" + header


def _signed(header: bytes, sealed: bytes) -> bytes:
    return b"msgsys signature v1" + header + sealed
