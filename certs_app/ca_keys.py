"""The one door to the CA's private keys."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from django.conf import settings

from certs_app.files import UnsafeFile, read_secret, write_secret

CURVE = ec.SECP256R1


class CaKeyError(Exception):
    """A CA key is missing or unusable."""


def path_of(issuer: str) -> Path:
    return Path(settings.CA_KEYS_DIR) / f"{issuer}.key"


def create(issuer: str) -> ec.EllipticCurvePrivateKey:
    """Make and store a new key. Raises CaKeyError when there is one: a CA key is never overwritten."""
    key = ec.generate_private_key(CURVE())
    try:
        write_secret(path_of(issuer), private_pem(key))
    except FileExistsError as error:
        raise CaKeyError(f"{error}. Restore the database that belongs to it, or move the key away.") from None
    return key


def load(issuer: str) -> ec.EllipticCurvePrivateKey:
    """Load the key of "root" or "issuing". Raises CaKeyError."""
    try:
        key = load_pem_private_key(read_secret(path_of(issuer)), password=None)
    except (UnsafeFile, ValueError, TypeError) as error:
        raise CaKeyError(f"the key of the {issuer} CA cannot be used: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CaKeyError(f"the key of the {issuer} CA is not an EC key")
    return key


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
