"""The one door to the CA's private keys."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from django.conf import settings

from certs_app.files import UnsafeFile, read_secret, write_secret

CURVE = ec.SECP256R1
EC, RSA = "ec", "rsa"
RSA_BITS = 3072

CaKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PrivateKey = CaKey | ed25519.Ed25519PrivateKey


class CaKeyError(Exception):
    """A CA key is missing or unusable."""


@dataclass(frozen=True)
class KeyKind:
    """The kind of key a CA gets: EC P-256, or RSA of `bits`."""

    algorithm: str = EC
    bits: int = RSA_BITS

    def generate(self) -> CaKey:
        if self.algorithm == RSA:
            return rsa.generate_private_key(public_exponent=65537, key_size=self.bits)
        return ec.generate_private_key(CURVE())


def path_of(issuer: str) -> Path:
    return Path(settings.CA_KEYS_DIR) / f"{issuer}.key"


def create(issuer: str, kind: KeyKind | None = None) -> CaKey:
    """Make and store a new key. Raises CaKeyError when there is one: a CA key is never overwritten."""
    key = (kind or KeyKind()).generate()
    passphrase = _passphrase(issuer)
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    try:
        write_secret(path_of(issuer), private_pem(key, encryption))
    except FileExistsError as error:
        raise CaKeyError(f"{error}. Restore the database that belongs to it, or move the key away.") from None
    return key


def load(issuer: str) -> CaKey:
    """Load the key of an issuer by its name. Raises CaKeyError."""
    try:
        content = read_secret(path_of(issuer))
        # A root made without a passphrase stays usable after one was set for the next.
        passphrase = _passphrase(issuer) if b"ENCRYPTED" in content else None
        key = load_pem_private_key(content, password=passphrase)
    except (UnsafeFile, ValueError, TypeError) as error:
        raise CaKeyError(f"the key of the {issuer} CA cannot be used: {error}") from None
    if not isinstance(key, CaKey):
        raise CaKeyError(f"the key of the {issuer} CA is neither EC nor RSA")
    return key


def is_usable(issuer: str) -> bool:
    """Tell whether an issuer's key can be loaded."""
    try:
        load(issuer)
    except CaKeyError:
        return False
    return True


def _passphrase(issuer: str) -> bytes | None:
    """Return the root's passphrase. The issuing CAs have none: they sign unattended, and it would lie beside them."""
    return settings.ROOT_KEY_PASSPHRASE.encode() or None if issuer.startswith("root") else None


def private_pem(key: PrivateKey, encryption: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
