"""Open what ingest sealed: find the signer, check the signature, open the seal, read the messages."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.conf import settings

from certs_app import sealing_keys
from certs_app.identity import NAME_PATTERN
from certs_app.models import Certificate
from wire import envelope, messages
from wire.envelope import EnvelopeError
from wire.ids import received_at
from wire.rules import MAX_BODY_CHARACTERS, MAX_REFERENCE_CHARACTERS

# What was signed before a planned revocation stays good; after a stolen key nothing can be told apart.
_NEVER_TRUSTED = "key_compromise"
# How far ingest's clock may be ahead of this one. Its messages have been accepted: the clock must not cost them.
CLOCK_SKEW = timedelta(minutes=5)
_CHARACTERS = {
    "client": 64,
    "certificate": 40,
    "sender_number": 16,
    "message_body": MAX_BODY_CHARACTERS,
    "client_reference": MAX_REFERENCE_CHARACTERS,
}


class UnknownSigner(EnvelopeError):
    code = "unknown_signer"


class SignerRevoked(EnvelopeError):
    code = "signer_revoked"


class BadContent(EnvelopeError):
    code = "bad_content"


class SealingKeyMissing(Exception):
    """The envelope is sealed to a key this registry does not hold: the operator's to repair, so not permanent."""


class Signer(NamedTuple):
    """What of a certificate of an ingest counts for what it signed."""

    fingerprint: str
    name: str
    der: bytes
    not_after: datetime
    revoked_at: datetime | None
    reason: str


@dataclass(frozen=True)
class Signers:
    """The ingest certificates that signed a set of envelopes, by SHA-256 of the certificate."""

    by_fingerprint: Mapping[str, Signer]

    @classmethod
    def of(cls, envelopes: Iterable[envelope.Envelope]) -> "Signers":
        # Each time: whether it was revoked is for the table to say.
        fingerprints = {one.signer.hex() for one in envelopes}
        found = Certificate.objects.filter(fingerprint__in=fingerprints, role="ingest")
        return cls({row[0]: Signer(*row) for row in found.values_list(*Signer._fields)})

    def check(self, one: envelope.Envelope) -> Signer:
        """Return the trusted ingest that signed this envelope. Raises EnvelopeError."""
        signer = self.by_fingerprint.get(one.signer.hex())
        if signer is None:
            raise UnknownSigner(f"envelope {one.id}: no ingest certificate has this fingerprint")
        public_key = _public_key(bytes(signer.der))
        if not isinstance(public_key, ec.EllipticCurvePublicKey):
            raise UnknownSigner(f"envelope {one.id}: the signer's key is not an EC key")
        one.verify(public_key)
        self._check_standing(signer, one)
        return signer

    def _check_standing(self, signer: Signer, one: envelope.Envelope) -> None:
        try:
            signed_at = received_at(one.id)
        except ValueError as error:
            raise BadContent(f"envelope {one.id}: {error}") from None
        signed_at -= CLOCK_SKEW
        if signer.revoked_at and (signer.reason == _NEVER_TRUSTED or signed_at >= signer.revoked_at):
            raise SignerRevoked(f"envelope {one.id}: its signer's certificate is revoked")
        # Not "not yet valid": the signer writes this time itself, so only a clock that is behind would be punished.
        if signed_at >= signer.not_after:
            raise UnknownSigner(f"envelope {one.id}: its signer's certificate had expired")


@functools.lru_cache(maxsize=64)
def _public_key(der: bytes) -> CertificatePublicKeyTypes:
    return x509.load_der_x509_certificate(der).public_key()


def read(one: envelope.Envelope) -> list[messages.Message]:
    """Open a verified envelope. Raises EnvelopeError, SealingKeyMissing."""
    key = private_keys().get(one.key_id)
    if key is None:
        raise SealingKeyMissing(f"envelope {one.id} is sealed to key {one.key_id}, which this registry does not hold")
    try:
        content = messages.decode_list(one.open(key))
        for message in content:
            _check_storable(message)
    except (ValueError, OverflowError) as error:
        raise BadContent(f"envelope {one.id}: {error}") from None
    if not 1 <= len(content) <= envelope.MAX_MESSAGES:
        raise BadContent(f"envelope {one.id}: {len(content)} messages instead of 1 to {envelope.MAX_MESSAGES}")
    if len({message.id for message in content}) < len(content):
        raise BadContent(f"envelope {one.id}: two messages have the same id, so only one could be stored")
    return content


def _check_storable(message: messages.Message) -> None:
    """Raise ValueError or OverflowError for what the table cannot hold: found only there, it would be tried for ever.

    Not the whole of wire.rules: ingest has accepted the message, and its numbering plans may be newer than ours.
    """
    received_at(message.id)
    for name, most in _CHARACTERS.items():
        value = getattr(message, name)
        if value is not None and not 1 <= len(value) <= most:
            raise ValueError(f"{name} has 1 to {most} characters")
    if not message.sender_number.isascii():
        raise ValueError("sender_number is E.164, and the column has a byte for each character")
    # MySQL takes Alice for alice, and who may read what hangs on it.
    if NAME_PATTERN.fullmatch(message.client) is None:
        raise ValueError("client is no name that a certificate can have")
    if message.sent_at is not None:
        if message.sent_at.utcoffset() is None:
            raise ValueError("sent_at has no offset from UTC")
        message.sent_at.astimezone(UTC)
    if message.idempotency is not None and len(bytes.fromhex(message.idempotency)) != 32:
        raise ValueError("idempotency is a SHA-256 in hex")


@functools.cache
def private_keys() -> Mapping[int, X25519PrivateKey]:
    """Return this process's private sealing keys, read once. Raises SealingKeyError."""
    return sealing_keys.load_private(settings.SEALING_KEY_FILE)
