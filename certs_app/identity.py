"""Who is calling: the role and name inside a verified certificate."""

import re
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes

ROLES = ("client", "ingest", "worker", "registry", "portal", "gateway", "admin", "prometheus", "jobs")

NAME_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


class IdentityError(Exception):
    """The certificate does not say who it belongs to in the one form we accept."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The verified other side of a connection.

    `serial_number` is lower-case hex, `fingerprint` the SHA-256 (hex) of the certificate, `issuer` the DER of the
    issuer's name.
    """

    role: str
    name: str
    serial_number: str
    fingerprint: str
    issuer: bytes
    not_after: datetime

    @classmethod
    def from_der(cls, der: bytes, trust_domain: str) -> "Peer":
        """Read the identity of a certificate that TLS has already verified. Raises IdentityError."""
        try:
            certificate = x509.load_der_x509_certificate(der)
            role, name = spiffe_identity(certificate, trust_domain)
        except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
            raise IdentityError("the certificate cannot be read") from error
        return cls(
            role=role,
            name=name,
            serial_number=serial_hex(certificate.serial_number),
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
            issuer=certificate.issuer.public_bytes(),
            not_after=certificate.not_valid_after_utc,
        )


def spiffe_uri(trust_domain: str, role: str, name: str) -> str:
    return f"spiffe://{trust_domain}/{role}/{quote(name)}"


def spiffe_identity(certificate: x509.Certificate, trust_domain: str) -> tuple[str, str]:
    """Return (role, name) from the single SAN URI (SPIFFE X509-SVID §2). Raises IdentityError.

    Common name and organisational unit are never looked at: they are for people to read.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise IdentityError("the certificate names no identity (no SAN)") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise IdentityError(f"the certificate must have exactly one SAN URI, not {len(uris)}")
    scheme, _, rest = uris[0].partition("://")
    parts = rest.split("/")
    if scheme != "spiffe" or len(parts) != 3 or parts[0] != trust_domain:
        raise IdentityError("the certificate's identity is not of this trust domain")
    role, name = parts[1], parts[2]
    if role not in ROLES or not NAME_PATTERN.fullmatch(name):
        raise IdentityError("the certificate's role or name is not known here")
    return role, name


def serial_hex(serial_number: int) -> str:
    return f"{serial_number:x}"


def read_serial_number(text: str) -> str:
    """Read a serial number as people copy it: upper case, colons, spaces, leading zeros, or the start a list shows."""
    return text.lower().removeprefix("0x").translate(_BETWEEN).lstrip("0")


_BETWEEN = str.maketrans("", "", ": …")
