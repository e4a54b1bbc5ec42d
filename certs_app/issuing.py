"""Issue certificates. The role's profile decides what goes in; of a CSR only its public key is taken."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from django.conf import settings

from certs_app import ca_keys
from certs_app.authority import BACKDATE
from certs_app.identity import NAME_PATTERN, serial_hex, spiffe_uri
from certs_app.models import Certificate, Issuer
from certs_app.profiles import EKU, MAX_DAYS, PROFILES, SERVER, key_usage

# Letters, digits and inner dashes (RFC 5280 §4.2.1.6); the library would take any ASCII text.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.IGNORECASE)
_ADDRESS_LIKE = re.compile(r"[0-9.]+")

_PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


class IssuingRefused(Exception):
    """The request breaks a rule of its role or of the CA. The message says which."""


@dataclass(frozen=True)
class Request:
    """What is asked for. Empty `usage` and `days` mean the role's own; `csr` is PEM."""

    name: str
    role: str
    usage: str = ""
    days: int = 0
    dns: Sequence[str] = ()
    ip: Sequence[str] = ()
    csr: bytes = b""


@dataclass(frozen=True)
class Issued:
    """A new certificate; `key_pem` is empty when the caller brought a CSR."""

    row: Certificate
    chain_pem: bytes
    key_pem: bytes = field(repr=False)


def issue(request: Request, now: datetime) -> Issued:
    """Issue a certificate. Raises IssuingRefused, CaKeyError."""
    usage, days = _judge(request)
    issuer = _issuing_ca(now)
    key = None if request.csr else ec.generate_private_key(ca_keys.CURVE())
    public_key = key.public_key() if key else _key_of_csr(request.csr)
    fingerprint = _spki_sha256(public_key)
    _refuse_burnt_key(fingerprint, request)
    certificate = _sign(request, usage, days, public_key, issuer, now)
    row = Certificate.objects.create(
        issuer=issuer,
        serial_number=serial_hex(certificate.serial_number),
        role=request.role,
        name=request.name,
        usage=usage,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        spki_sha256=fingerprint,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        der=certificate.public_bytes(Encoding.DER),
    )
    chain = certificate.public_bytes(Encoding.PEM) + issuer.certificate.public_bytes(Encoding.PEM)
    return Issued(row, chain, ca_keys.private_pem(key) if key else b"")


def _judge(request: Request) -> tuple[str, int]:
    profile = PROFILES.get(request.role)
    if profile is None:
        raise IssuingRefused(f"there is no role {request.role!r}; roles are {', '.join(PROFILES)}")
    if not NAME_PATTERN.fullmatch(request.name):
        raise IssuingRefused(
            f"{request.name!r} is no name for a certificate: use 1 to 64 of a-z, 0-9, dot, dash and underscore, "
            "with a letter or digit at both ends"
        )
    usage = request.usage or profile.usages[0]
    if usage not in profile.usages:
        raise IssuingRefused(f"role {request.role} has no {usage} certificates, only {' or '.join(profile.usages)}")
    days = request.days or profile.days
    if not 1 <= days <= MAX_DAYS:
        raise IssuingRefused(f"a certificate is valid for 1 to {MAX_DAYS} days, not {days}")
    if usage != SERVER and (request.dns or request.ip):
        raise IssuingRefused("only server certificates carry host names and addresses")
    return usage, days


def _issuing_ca(now: datetime) -> Issuer:
    issuer = Issuer.objects.filter(name=Issuer.ISSUING).first()
    if issuer is None:
        raise IssuingRefused("there is no CA yet: run `manage.py init_ca` first")
    if issuer.not_after <= now:
        raise IssuingRefused(f"the issuing CA expired on {issuer.not_after:%Y-%m-%d}")
    return issuer


def _key_of_csr(pem: bytes) -> _PublicKey:
    try:
        csr = x509.load_pem_x509_csr(pem)
        public_key = _acceptable(csr.public_key())
        signed_by_its_key = csr.is_signature_valid
    except ValueError as error:
        raise IssuingRefused("the CSR cannot be read: it must be PEM (PKCS #10)") from error
    except UnsupportedAlgorithm as error:
        raise IssuingRefused(f"the CSR uses an algorithm that is not accepted: {_KEYS}") from error
    if not signed_by_its_key:
        raise IssuingRefused("the CSR's signature does not fit its key")
    return public_key


_KEYS = "keys are EC P-256 or P-384, Ed25519, or RSA of 3072 to 8192 bits"


def _acceptable(public_key: CertificatePublicKeyTypes) -> _PublicKey:
    if isinstance(public_key, ec.EllipticCurvePublicKey) and isinstance(public_key.curve, ec.SECP256R1 | ec.SECP384R1):
        return public_key
    if isinstance(public_key, rsa.RSAPublicKey) and 3072 <= public_key.key_size <= 8192:
        return public_key
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return public_key
    raise IssuingRefused(_KEYS)


def _spki_sha256(public_key: _PublicKey) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()


def _refuse_burnt_key(fingerprint: str, request: Request) -> None:
    """Refuse a key that was revoked, or that belongs to somebody else."""
    others = Certificate.objects.filter(spki_sha256=fingerprint)
    if others.exclude(revoked_at=None).exists():
        raise IssuingRefused("this key belonged to a revoked certificate: make a new key")
    if others.exclude(name=request.name, role=request.role).exists():
        raise IssuingRefused("this key belongs to another certificate's owner: make a new key")


def _sign(
    request: Request, usage: str, days: int, public_key: _PublicKey, issuer: Issuer, now: datetime
) -> x509.Certificate:
    issuer_certificate, issuer_key = issuer.certificate, ca_keys.load(Issuer.ISSUING)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, request.name)]))
        .issuer_name(issuer_certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        # A leaf never outlives its issuer: the chain would break with a certificate that still looks valid.
        .not_valid_after(min(now + timedelta(days=days), issuer.not_after))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([EKU[usage]]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(request)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )


def _names(request: Request) -> list[x509.GeneralName]:
    uri = spiffe_uri(settings.TRUST_DOMAIN, request.role, request.name)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
    names += [x509.DNSName(_host_name(name)) for name in request.dns]
    try:
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in request.ip]
    except ValueError as error:
        raise IssuingRefused(f"an address cannot be used: {error}") from error
    return names


def _host_name(name: str) -> str:
    if _ADDRESS_LIKE.fullmatch(name):
        raise IssuingRefused(f"{name!r} is an address, no host name: clients look for it among the addresses")
    if not _HOST_NAME.fullmatch(name):
        raise IssuingRefused(f"{name!r} is no host name: use letters, digits, dashes and dots, and no wildcard")
    return name.lower()
