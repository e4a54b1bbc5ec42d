"""What a certificate of each role may be used for. The profile decides everything; a CSR only brings its key."""

from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

CLIENT, SERVER = "client", "server"

EKU: dict[str, ObjectIdentifier] = {
    CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH,
    SERVER: ExtendedKeyUsageOID.SERVER_AUTH,
}


@dataclass(frozen=True)
class Profile:
    """`usages`: the extended key usages a role may ask for, the usual one first; a certificate gets exactly one."""

    usages: tuple[str, ...]
    days: int = 90


PROFILES: dict[str, Profile] = {
    "client": Profile((CLIENT,)),
    "gateway": Profile((CLIENT,)),
    "admin": Profile((CLIENT,)),
    "prometheus": Profile((CLIENT,)),
    "ingest": Profile((SERVER, CLIENT)),
    "worker": Profile((CLIENT, SERVER)),
    "registry": Profile((SERVER,)),
    "portal": Profile((SERVER,)),
    "jobs": Profile((SERVER,)),
}

MAX_DAYS = 397


_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def key_usage(*granted: str) -> x509.KeyUsage:
    """Build a KeyUsage extension (RFC 5280 §4.2.1.3) that grants these uses and no others."""
    return x509.KeyUsage(**{usage: usage in granted for usage in _KEY_USAGES})
