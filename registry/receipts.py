"""Signed receipts: proof for the sender that the registry has a message, as a JWS (RFC 7515).

The registry's certificate chain is in the header (x5c), so anyone who has ca.crt can verify it, for ever.
"""

import base64
import functools
import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from django.conf import settings

from certs_app.files import read_secret
from certs_app.identity import spiffe_uri
from certs_app.revocation import FileIdentity, file_identity
from registry.models import Message
from wire.messages import encode

# By the curve of an EC key (RFC 7518 §3.4).
_OF_CURVE = {"secp256r1": "ES256", "secp384r1": "ES384"}


def issue(message: Message, now: datetime) -> str:
    """Return a compact JWS over the message's id, client, times and the SHA-256 of its content.

    `iat` is when it was signed: the certificate has to be valid then, not when the receipt is looked at. The message's
    status is not in it: it moves on, and a receipt would go on saying what is no longer so.
    """
    claims = {
        "iat": int(now.timestamp()),
        "iss": spiffe_uri(settings.TRUST_DOMAIN, "registry", "registry"),
        "sub": str(message.uid),
        "client": message.client,
        "received_at": message.received_at.isoformat(),
        "stored_at": message.stored_at.isoformat(),
        "content_sha256": content_sha256(message.sender_number, message.message_body),
    }
    key, chain = _signer()
    return jwt.encode(claims, key, algorithm=algorithm_of(key.public_key()), headers={"x5c": chain})


def content_sha256(sender_number: str, message_body: str) -> str:
    """Return the hex SHA-256 of the canonical JSON {"message_body", "sender_number"}."""
    return hashlib.sha256(encode({"sender_number": sender_number, "message_body": message_body})).hexdigest()


def algorithm_of(key: Any) -> str:
    """Return the one JWS algorithm that a public key is used with. Raises ValueError for a key of another kind."""
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _OF_CURVE:
        return _OF_CURVE[key.curve.name]
    if isinstance(key, rsa.RSAPublicKey):
        return "RS256"
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "EdDSA"
    raise ValueError(f"no receipt is signed with a {type(key).__name__}")


def _signer() -> tuple[Any, list[str]]:
    pair = settings.SERVER_CERTIFICATE
    # A renewed certificate is taken up without a restart, as TLS does.
    return _load(pair["certificate"], pair["key"], file_identity(pair["certificate"]))


@functools.lru_cache(maxsize=1)
def _load(certificate_file: Path, key_file: Path, identity: FileIdentity) -> tuple[Any, list[str]]:
    key = load_pem_private_key(read_secret(key_file), password=None)
    chain = x509.load_pem_x509_certificates(certificate_file.read_bytes())
    return key, [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode() for certificate in chain]
