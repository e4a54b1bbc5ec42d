"""Seal and sign what was accepted, with keys that the registry will accept when it gets there."""

import base64
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from django.conf import settings
from django.utils import timezone

from certs_app import sealing_keys
from certs_app.files import UnsafeFile, read_secret
from certs_app.identity import IdentityError, Peer
from certs_app.revocation import FileIdentity, Revocations, file_identity, is_settling
from ingest import queue
from wire import envelope
from wire.ids import new_id
from wire.messages import Message, encode
from wire.problems import Problem, retry_later

logger = logging.getLogger(__name__)

# An envelope's plain text; sealed and base64 it stays well under what one POST to the registry may carry.
MAX_PLAIN_BYTES = 512 * 1024


@dataclass(frozen=True)
class Sealed:
    """One envelope: how many messages are in it, and the Celery message that carries it."""

    id: UUID
    count: int
    task: bytes


@dataclass(frozen=True)
class Sealer:
    """All that is needed to seal and sign: the registry's public key and this ingest's own certificate and key."""

    key_id: int
    recipient: X25519PublicKey
    signer: bytes
    signing_key: ec.EllipticCurvePrivateKey
    identity: Peer

    def envelopes(self, messages: Sequence[Message], now: float) -> Iterator[Sealed]:
        """Seal messages, in their order, into as few envelopes as the limits allow."""
        for count, plain in _chunks(messages):
            envelope_id = new_id(now)
            sealed = envelope.seal(
                plain,
                envelope_id=envelope_id,
                key_id=self.key_id,
                recipient=self.recipient,
                signer=self.signer,
                signing_key=self.signing_key,
            )
            yield Sealed(envelope_id, count, queue.task_message(envelope_id, base64.b64encode(sealed).decode()))


def _chunks(messages: Sequence[Message]) -> Iterator[tuple[int, bytes]]:
    parts: list[bytes] = []
    size = 0
    for message in messages:
        part = encode(message)
        if parts and (len(parts) == envelope.MAX_MESSAGES or size + len(part) > MAX_PLAIN_BYTES):
            yield len(parts), b"[" + b",".join(parts) + b"]"
            parts, size = [], 0
        parts.append(part)
        size += len(part) + 1
    if parts:
        yield len(parts), b"[" + b",".join(parts) + b"]"


class Sealing:
    """The current Sealer: read again when a file changes; half-replaced files leave the last good one in place."""

    def __init__(self) -> None:
        pair = settings.CLIENT_CERTIFICATE
        self._files: tuple[Path, ...] = (pair["certificate"], pair["key"], settings.SEALING_PUBLIC_FILE)
        self._revocations = Revocations(settings.CRL_FILE, settings.CA_FILE)
        self._seen: tuple[FileIdentity, ...] = ()
        self._sealer: Sealer | None = None

    def current(self) -> Sealer:
        """Return a Sealer whose certificate stands: what it signs, the registry takes. Raises Problem.

        Accepting with an expired or revoked certificate would send every message to the dead letters.
        """
        self._reload()
        if self._sealer is None:
            raise _unusable("its key files cannot be used")
        try:
            self._revocations.check(self._sealer.identity, timezone.now())
        except Problem as problem:
            raise _unusable(problem.code) from None
        return self._sealer

    def _reload(self) -> None:
        try:
            seen = tuple(file_identity(path) for path in self._files)
        except OSError:
            return
        if seen == self._seen:
            return
        try:
            self._sealer = _load(*self._files)
        except (UnsafeFile, sealing_keys.SealingKeyError, IdentityError, OSError, ValueError, TypeError) as error:
            if is_settling(seen):
                # One half of a pair, most likely: the other half comes in a moment. Not remembered, so tried again.
                return
            logger.exception("new sealing files cannot be used", extra={"reason": str(error)})
        self._seen = seen


def _unusable(reason: str) -> Problem:
    detail = (
        f"Ingest cannot sign for the registry at the moment ({reason}): tell the operator, and send it again later."
    )
    return retry_later("signing_unavailable", detail, 60)


def _load(certificate_file: Path, key_file: Path, public_file: Path) -> Sealer:
    key_id, recipient = sealing_keys.load_public(public_file)
    certificate = x509.load_pem_x509_certificates(certificate_file.read_bytes())[0]
    key = load_pem_private_key(read_secret(key_file), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("ingest signs with an EC key")
    if key.public_key() != certificate.public_key():
        raise ValueError("the key is not the certificate's: one of the two is being replaced")
    identity = Peer.from_der(certificate.public_bytes(Encoding.DER), settings.TRUST_DOMAIN)
    return Sealer(key_id, recipient, certificate.fingerprint(hashes.SHA256()), key, identity)
