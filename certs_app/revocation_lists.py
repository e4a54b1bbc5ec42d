"""Revoke certificates and publish revocation lists (RFC 5280 §5), numbered under a row lock."""

import logging
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from django.conf import settings
from django.db import transaction

from certs_app import ca_keys
from certs_app.files import write_atomic
from certs_app.models import REASONS, Certificate, CertificateQuerySet, Crl, Issuer

logger = logging.getLogger(__name__)

# A list "from the future" locks everybody out whose clock runs behind.
BACKDATE = timedelta(minutes=1)
ROOT_LIST_LIFE = timedelta(days=180)
# A revoked certificate stays listed for a while after it expires, for those whose clock runs behind.
GRACE = timedelta(hours=1)


def revoke(certificates: CertificateQuerySet, reason: str, now: datetime) -> int:
    """Revoke those of `certificates` that are not revoked yet, and publish at once. Returns how many.

    Raises CaKeyError. Revoking twice is harmless: the first time and reason stand.
    """
    if reason and reason not in REASONS:
        raise ValueError(f"unknown reason {reason!r}; reasons are {', '.join(REASONS)}")
    with transaction.atomic():
        # The lock comes before the revoked set is read, so that a list with a higher number never says less.
        Issuer.objects.select_for_update().get(name=Issuer.ISSUING)
        count = certificates.filter(revoked_at=None).update(revoked_at=now, reason=reason)
        publish(now)
    return count


def publish(now: datetime) -> Crl:
    """Issue a new list of the issuing CA, renew the root's when due, and write the file that servers read."""
    with transaction.atomic():
        issuing = Issuer.objects.select_for_update().get(name=Issuer.ISSUING)
        crl = _new_list(issuing, now, timedelta(hours=settings.CRL_HOURS))
        _renew_root_list(now)
        transaction.on_commit(write_file)
    return crl


def write_file() -> None:
    """Write the newest list of each issuer to the file that servers read.

    The row lock keeps a slower writer from putting an older list over a newer one.
    """
    with transaction.atomic():
        Issuer.objects.select_for_update().get(name=Issuer.ISSUING)
        write_atomic(settings.CRL_FILE, bundle())


def bundle() -> bytes:
    """Return the newest list of each issuer as PEM: a chain check needs the root's as well."""
    newest = [Crl.objects.filter(issuer=issuer).order_by("-number").first() for issuer in Issuer.objects.order_by("id")]
    lists = [x509.load_der_x509_crl(bytes(crl.der)) for crl in newest if crl is not None]
    return b"".join(crl.public_bytes(Encoding.PEM) for crl in lists)


def _renew_root_list(now: datetime) -> None:
    """Renew the root's list when a third of its life is left.

    Its key is meant to be offline: without it, the old list goes on and the issuing CA's lists must not stop.
    """
    root = Issuer.objects.get(name=Issuer.ROOT)
    newest = Crl.objects.filter(issuer=root).order_by("-number").first()
    if newest is not None and newest.next_update - now >= ROOT_LIST_LIFE / 3:
        return
    try:
        _new_list(root, now, ROOT_LIST_LIFE)
    except ca_keys.CaKeyError as error:
        if newest is None:
            raise
        logger.error(
            "the root CA's revocation list must be renewed: bring back its key and run publish_crl",
            extra={"next_update": newest.next_update.isoformat(), "reason": str(error)},
        )


def _new_list(issuer: Issuer, now: datetime, life: timedelta) -> Crl:
    newest = Crl.objects.filter(issuer=issuer).order_by("-number").first()
    number = newest.number + 1 if newest else 1
    key = ca_keys.load(issuer.name)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now - BACKDATE)
        .next_update(now + life)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for certificate in Certificate.objects.filter(issuer=issuer).revoked_on_list(since=now - GRACE):
        builder = builder.add_revoked_certificate(_entry(certificate))
    der = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    return Crl.objects.create(issuer=issuer, number=number, this_update=now - BACKDATE, next_update=now + life, der=der)


def _entry(certificate: Certificate) -> x509.RevokedCertificate:
    assert certificate.revoked_at is not None
    builder = (
        x509.RevokedCertificateBuilder()
        .serial_number(int(certificate.serial_number, 16))
        .revocation_date(certificate.revoked_at)
    )
    if certificate.reason:
        builder = builder.add_extension(x509.CRLReason(REASONS[certificate.reason]), critical=False)
    return builder.build()
