"""Open what ingest sealed: find the signer, check the signature, open the seal, read the messages."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.conf import settings

from certs_app import sealing_keys
from certs_app.models import Certificate
from wire import envelope, messages
from wire.envelope import EnvelopeError
from wire.ids import received_at

# What was signed before a planned revocation stays good; after a stolen key nothing can be told apart.
_NEVER_TRUSTED = "key_compromise"


class UnknownSigner(EnvelopeError):
    code = "unknown_signer"


class SignerRevoked(EnvelopeError):
    code = "signer_revoked"


class BadContent(EnvelopeError):
    code = "bad_content"


class SealingKeyMissing(Exception):
    """The envelope is sealed to a key this registry does not hold: the operator's to repair, so not permanent."""


@dataclass(frozen=True)
class Signers:
    """The ingest certificates that signed a set of envelopes, by SHA-256 of the certificate."""

    by_fingerprint: Mapping[str, Certificate]

    @classmethod
    def of(cls, envelopes: Iterable[envelope.Envelope]) -> "Signers":
        fingerprints = {one.signer.hex() for one in envelopes}
        found = Certificate.objects.filter(fingerprint__in=fingerprints, role="ingest")
        return cls({certificate.fingerprint: certificate for certificate in found})

    def check(self, one: envelope.Envelope) -> None:
        """Raise EnvelopeError unless a trusted ingest signed this envelope."""
        certificate = self.by_fingerprint.get(one.signer.hex())
        if certificate is None:
            raise UnknownSigner(f"envelope {one.id}: no ingest certificate has this fingerprint")
        public_key = certificate.certificate.public_key()
        if not isinstance(public_key, ec.EllipticCurvePublicKey):
            raise UnknownSigner(f"envelope {one.id}: the signer's key is not an EC key")
        one.verify(public_key)
        self._check_standing(certificate, one)

    def _check_standing(self, certificate: Certificate, one: envelope.Envelope) -> None:
        try:
            signed_at = received_at(one.id)
        except ValueError as error:
            raise BadContent(f"envelope {one.id}: {error}") from None
        if certificate.revoked_at and (certificate.reason == _NEVER_TRUSTED or signed_at >= certificate.revoked_at):
            raise SignerRevoked(f"envelope {one.id}: its signer's certificate is revoked")
        if not certificate.not_before <= signed_at < certificate.not_after:
            raise UnknownSigner(f"envelope {one.id}: its signer's certificate was not valid then")


def read(one: envelope.Envelope) -> list[messages.Message]:
    """Open a verified envelope. Raises EnvelopeError, SealingKeyMissing."""
    key = private_keys().get(one.key_id)
    if key is None:
        raise SealingKeyMissing(f"envelope {one.id} is sealed to key {one.key_id}, which this registry does not hold")
    try:
        content = messages.decode_list(one.open(key))
        for message in content:
            received_at(message.id)
    except ValueError as error:
        raise BadContent(f"envelope {one.id}: {error}") from None
    if not 1 <= len(content) <= envelope.MAX_MESSAGES:
        raise BadContent(f"envelope {one.id}: {len(content)} messages instead of 1 to {envelope.MAX_MESSAGES}")
    return content


@functools.cache
def private_keys() -> Mapping[int, X25519PrivateKey]:
    """Return this process's private sealing keys, read once. Raises SealingKeyError."""
    return sealing_keys.load_private(settings.SEALING_KEY_FILE)
