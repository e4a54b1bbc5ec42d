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
from django.db import transaction

from certs_app import audit, ca_keys, lint
from certs_app.audit import Actor
from certs_app.authority import BACKDATE, USAGE
from certs_app.identity import NAME_PATTERN, serial_hex, spiffe_uri
from certs_app.models import Certificate, Issuer
from certs_app.profiles import DEFAULT_DAYS, EKU, PROFILES, SERVER, Profile, key_usage

# Letters, digits and inner dashes (RFC 5280 §4.2.1.6); the library would take any ASCII text.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.IGNORECASE)
_ADDRESS_LIKE = re.compile(r"[0-9.]+")

_PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


class IssuingRefused(Exception):
    """The request breaks a rule of its role or of the CA. The message says which."""


@dataclass(frozen=True)
class Request:
    """What is asked for. Empty `usage` and `days` mean the usual ones; `csr` is PEM.

    `life` is for whoever renews: as long as the one before, whatever that was.
    """

    name: str
    role: str
    usage: str = ""
    days: int = 0
    dns: Sequence[str] = ()
    ip: Sequence[str] = ()
    csr: bytes = b""
    life: timedelta | None = None


@dataclass(frozen=True)
class Issued:
    """A new certificate; `key_pem` is empty when the caller brought a CSR."""

    row: Certificate
    chain_pem: bytes
    key_pem: bytes = field(repr=False)


def issue(request: Request, now: datetime, by: Actor, replaces: Certificate | None = None) -> Issued:
    """Issue a certificate, the successor of `replaces` when that is given. Raises IssuingRefused, CaKeyError."""
    usage, life = _judge(request)
    key = None if request.csr else ec.generate_private_key(ca_keys.CURVE())
    public_key = key.public_key() if key else _key_of_csr(request.csr)
    with transaction.atomic():
        # Before the key is looked at: of two who bring the same one, the second finds it taken.
        Issuer.objects.locked()
        issuer = _issuer_for(usage, now)
        # Whoever stole a key may renew at the very moment that its certificate is revoked.
        if replaces is not None and Certificate.objects.filter(pk=replaces.pk).exclude(revoked_at=None).exists():
            raise IssuingRefused("a revoked certificate is not renewed")
        fingerprint = _spki_sha256(public_key)
        _refuse_burnt_key(fingerprint, public_key, request)
        certificate = _sign(request, usage, life, public_key, issuer, now)
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
            replaces=replaces,
        )
        until = f"{usage}, until {row.not_after:%Y-%m-%dT%H:%M:%SZ}"
        detail = f"{until}, replaces {replaces.serial_number}" if replaces else until
        audit.record(audit.RENEWED if replaces else audit.ISSUED, by, row, now, detail)
    chain = certificate.public_bytes(Encoding.PEM) + issuer.certificate.public_bytes(Encoding.PEM)
    return Issued(row, chain, ca_keys.private_pem(key) if key else b"")


def _judge(request: Request) -> tuple[str, timedelta]:
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
    if usage != SERVER and (request.dns or request.ip):
        raise IssuingRefused("only server certificates carry host names and addresses")
    if usage == SERVER and not (request.dns or request.ip):
        raise IssuingRefused("a server certificate needs the host names or addresses it is reached by: --dns, --ip")
    return usage, _life(request, profile)


def _life(request: Request, profile: Profile) -> timedelta:
    most = timedelta(days=profile.max_days)
    if request.life is not None:
        return min(request.life, most)
    days = request.days or min(DEFAULT_DAYS, profile.max_days)
    if not 1 <= days <= profile.max_days:
        raise IssuingRefused(
            f"a certificate of role {request.role} is valid for 1 to {profile.max_days} days, not {days}"
        )
    return timedelta(days=days)


def _issuer_for(usage: str, now: datetime) -> Issuer:
    kind = next(kind for kind, its in USAGE.items() if its == usage)
    issuer = Issuer.objects.newest(kind, now)
    if issuer is None:
        if not Issuer.objects.exists():
            raise IssuingRefused("there is no CA yet: run `manage.py init_ca` first")
        raise IssuingRefused(
            f"no CA for {usage} certificates stands any more: run `manage.py init_ca --add-issuer {kind}`"
        )
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


_KEYS = "keys are EC P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits (3072 is a good choice)"


def _acceptable(public_key: CertificatePublicKeyTypes) -> _PublicKey:
    if isinstance(public_key, ec.EllipticCurvePublicKey) and isinstance(public_key.curve, ec.SECP256R1 | ec.SECP384R1):
        return public_key
    if isinstance(public_key, rsa.RSAPublicKey) and 2048 <= public_key.key_size <= 8192:
        return public_key
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return public_key
    raise IssuingRefused(_KEYS)


def _spki_sha256(public_key: _PublicKey) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()


def _refuse_burnt_key(fingerprint: str, public_key: _PublicKey, request: Request) -> None:
    """Refuse a key that was revoked, that belongs to somebody else, or that is a CA's."""
    others = Certificate.objects.filter(spki_sha256=fingerprint)
    if others.exclude(revoked_at=None).exists():
        raise IssuingRefused("this key belonged to a revoked certificate: make a new key")
    if others.exclude(name=request.name, role=request.role).exists():
        raise IssuingRefused("this key belongs to another certificate's owner: make a new key")
    if any(issuer.certificate.public_key() == public_key for issuer in Issuer.objects.all()):
        raise IssuingRefused("this key is a CA's: make a new key")


def _sign(
    request: Request, usage: str, life: timedelta, public_key: _PublicKey, issuer: Issuer, now: datetime
) -> x509.Certificate:
    issuer_certificate = issuer.certificate
    names = _names(request)
    issuer_key_id = issuer_certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, request.name)]))
        .issuer_name(issuer_certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # A tenth of a short life at most: two thirds of it would be over before it began.
        .not_valid_before(now - min(BACKDATE, life / 10))
        # A leaf never outlives its issuer: the chain would break with a certificate that still looks valid.
        .not_valid_after(min(now + life, issuer.not_after))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([EKU[usage]]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key_id), critical=False)
    )
    lint.check_leaf(builder, issuer_certificate, _uri(request), usage)
    return builder.sign(ca_keys.load(issuer.name), hashes.SHA256())


def _uri(request: Request) -> str:
    return spiffe_uri(settings.TRUST_DOMAIN, request.role, request.name)


def _names(request: Request) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(_uri(request))]
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
