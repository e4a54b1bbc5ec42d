"""What a certificate of each role may be used for, and who may have it made. The profile decides everything; a CSR
only brings its key."""

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

CLIENT, SERVER = "client", "server"

EKU: dict[str, ObjectIdentifier] = {
    CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH,
    SERVER: ExtendedKeyUsageOID.SERVER_AUTH,
}

DEFAULT_DAYS = 365


@dataclass(frozen=True)
class Profile:
    """`usages`: the extended key usages a role may ask for, the usual one first; a certificate gets exactly one.

    `max_days` is the longest life that may be asked for.
    """

    usages: tuple[str, ...]
    max_days: int = 397


PROFILES: dict[str, Profile] = {
    # Field systems may be out of reach for long.
    "client": Profile((CLIENT,), max_days=730),
    "gateway": Profile((CLIENT,), max_days=730),
    "admin": Profile((CLIENT,)),
    "prometheus": Profile((CLIENT,)),
    "ingest": Profile((SERVER, CLIENT)),
    "worker": Profile((CLIENT, SERVER)),
    "registry": Profile((SERVER,)),
    # The portal's client certificate renews its server certificate and fetches the revocation lists.
    "portal": Profile((SERVER, CLIENT)),
    "jobs": Profile((SERVER,)),
}

# Over HTTPS, by the caller's role: what it may have issued and revoked. What a stolen admin certificate must not make
# (another admin, a service) or stop (a service) is made and stopped at the CA's own machine only, with manage.py.
# Beside this, every caller may renew its own certificates.
MAY_ISSUE: Mapping[str, frozenset[str]] = {"admin": frozenset({"client", "gateway", "prometheus"})}
MAY_REVOKE: Mapping[str, frozenset[str]] = {"admin": frozenset({"client", "gateway", "prometheus", "admin"})}

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
