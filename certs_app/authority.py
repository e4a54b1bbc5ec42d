"""Make the CA: an offline-able root and the issuing CA below it, both EC P-256."""

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from django.conf import settings
from django.db import transaction

from certs_app import ca_keys, profiles, revocation_lists
from certs_app.files import write_atomic
from certs_app.models import Issuer

ROOT_LIFE = timedelta(days=3650)
ISSUING_LIFE = timedelta(days=1825)
# Clocks of other machines may run behind ours; a certificate "not yet valid" locks people out.
BACKDATE = timedelta(minutes=5)


class AlreadyInitialised(Exception):
    """There is a CA already."""


def init_ca(now: datetime) -> None:
    """Make both CAs, their first revocation lists and the public files. Raises AlreadyInitialised, CaKeyError."""
    if Issuer.objects.exists():
        raise AlreadyInitialised("there is a CA already: it is never replaced")
    root_key, issuing_key = ca_keys.create(Issuer.ROOT), ca_keys.create(Issuer.ISSUING)
    root_name, issuing_name = _subject("Root CA"), _subject("Issuing CA")
    root = _certificate(root_name, root_key.public_key(), root_name, root_key, now, ROOT_LIFE, path_length=1)
    issuing = _certificate(
        issuing_name, issuing_key.public_key(), root_name, root_key, now, ISSUING_LIFE, path_length=0
    )
    with transaction.atomic():
        for name, certificate in ((Issuer.ROOT, root), (Issuer.ISSUING, issuing)):
            Issuer.objects.create(
                name=name,
                der=certificate.public_bytes(Encoding.DER),
                not_after=certificate.not_valid_after_utc,
            )
        write_atomic(settings.CA_FILE, ca_bundle())
        revocation_lists.publish(now)


def ca_bundle() -> bytes:
    """Return both CA certificates as PEM, the root first."""
    return b"".join(
        Issuer.objects.get(name=name).certificate.public_bytes(Encoding.PEM) for name in (Issuer.ROOT, Issuer.ISSUING)
    )


def _subject(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, settings.TRUST_DOMAIN),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{settings.TRUST_DOMAIN} {common_name}"),
        ]
    )


def _certificate(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    life: timedelta,
    path_length: int,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(profiles.key_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    if subject != issuer:
        key_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        builder = builder.add_extension(key_identifier, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
