"""Revoke certificates and publish revocation lists (RFC 5280 §5), numbered under a row lock."""

import logging
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from certs_app import audit, ca_keys
from certs_app.audit import Actor
from certs_app.files import lock_beside, write_atomic
from certs_app.models import ISSUER_REASONS, REASONS, Certificate, CertificateQuerySet, Crl, Issuer
from certs_app.revocation import numbers_in

logger = logging.getLogger(__name__)

# A list "from the future" locks everybody out whose clock runs behind.
BACKDATE = timedelta(minutes=5)
ROOT_LIST_LIFE = timedelta(days=180)
# A revoked certificate stays listed for a while after it expires, for those whose clock runs behind.
GRACE = timedelta(hours=1)
# Lists per issuer that are kept. One list of ten thousand entries has 400 kB, and every revocation makes a new one.
KEPT = 100
STOLEN = "key_compromise"


def revoke(certificates: CertificateQuerySet, reason: str, now: datetime, by: Actor) -> list[Certificate]:
    """Revoke those of `certificates` that are not revoked yet, and publish at once. Returns them.

    After a stolen key, also what was renewed from them: it may be the thief's. Revoking twice is harmless: the first
    time and reason stand. Raises CaKeyError when a list that has to name one of them cannot be signed.
    """
    _check_reason(reason, REASONS)
    with transaction.atomic():
        # The lock comes before the revoked set is read, so that a list with a higher number never says less.
        Issuer.objects.locked()
        chosen = certificates.with_successors() if reason == STOLEN else certificates
        revoked = _mark(chosen, reason, now, by)
        publish(now, naming={certificate.issuer_id for certificate in revoked})
    return revoked


def revoke_issuer(issuer: Issuer, reason: str, now: datetime, by: Actor) -> int:
    """Revoke an issuing CA and every certificate it issued, and publish. Returns how many certificates.

    Needs the root's key: the CA goes on the root's list. Its own key may be gone. Raises CaKeyError, ValueError.
    """
    _check_reason(reason, ISSUER_REASONS)
    if issuer.kind == Issuer.ROOT:
        raise ValueError("a root cannot be revoked, nobody stands above it: make a new CA and give out its ca.crt")
    with transaction.atomic():
        Issuer.objects.locked()
        # What it signed before stays believable: what its thief signs is known to no registry, and refused as unknown.
        revoked = _mark(Certificate.objects.filter(issuer=issuer), "superseded", now, by)
        if Issuer.objects.filter(pk=issuer.pk, revoked_at=None).update(revoked_at=now, reason=reason):
            audit.record(audit.CA_REVOKED, by, issuer, now, reason)
        _publish_root_lists(now, naming=issuer)
        # Whatever else cannot be signed: that this CA has ended is on the root's list.
        publish(now, best_effort=True)
    return len(revoked)


def _check_reason(reason: str, reasons: dict[str, x509.ReasonFlags]) -> None:
    if reason and reason not in reasons:
        raise ValueError(f"unknown reason {reason!r}; reasons are {', '.join(reasons)}")


def _mark(certificates: CertificateQuerySet, reason: str, now: datetime, by: Actor) -> list[Certificate]:
    found = list(certificates.filter(revoked_at=None).order_by("id"))
    for certificate in found:
        Certificate.objects.filter(pk=certificate.pk).update(revoked_at=now, reason=reason)
        audit.record(audit.REVOKED, by, certificate, now, reason)
    return found


def publish(now: datetime, naming: Collection[int] = (), *, best_effort: bool = False) -> list[Crl]:
    """Issue a new list of every issuing CA, renew the roots' when due, and write the file that servers read.

    A CA whose key cannot be used does not stop the others: its last list goes on. Returns the new lists. Raises
    CaKeyError when there is none (unless `best_effort`), or when the list of a CA in `naming` (ids) has to say
    something new.
    """
    with transaction.atomic():
        lists, failures = [], []
        for issuer in Issuer.objects.locked():
            if issuer.kind == Issuer.ROOT or issuer.not_after <= now or _has_last_list(issuer):
                continue
            try:
                lists.append(_new_list(issuer, now, _life_of_list(issuer, now)))
            except ca_keys.CaKeyError as error:
                if issuer.pk in naming or newest(issuer) is None:
                    raise
                if issuer.revoked_at is None:
                    failures.append(error)
                logger.error("a CA's revocation list cannot be signed", extra={"ca": issuer.name, "reason": str(error)})
        if failures and not lists and not best_effort:
            raise failures[0]
        _publish_root_lists(now)
        transaction.on_commit(write_file)
    return lists


def _life_of_list(issuer: Issuer, now: datetime) -> timedelta:
    # The last list of a revoked CA lasts to its end: nothing will change on it, and its key can be destroyed.
    return timedelta(hours=settings.CRL_HOURS) if issuer.revoked_at is None else issuer.not_after - now + GRACE


def _has_last_list(issuer: Issuer) -> bool:
    held = newest(issuer)
    return issuer.revoked_at is not None and held is not None and held.next_update > issuer.not_after


def write_file() -> None:
    """Write the newest list of each issuer to the file that servers read.

    The row lock keeps a slower writer from putting an older list over a newer one; the file lock keeps out those who
    fetch lists on this same machine. It comes first: nobody waits for a file while the database waits for him.
    """
    with lock_beside(settings.CRL_FILE), transaction.atomic():
        # No CA in the database is no reason to write over the lists of one: it may be a database yet to be restored.
        if Issuer.objects.locked():
            write_atomic(settings.CRL_FILE, bundle(timezone.now()))


def bundle(now: datetime) -> bytes:
    """Return the newest list of each issuer as PEM: a chain check needs the root's as well."""
    return b"".join(x509.load_der_x509_crl(bytes(crl.der)).public_bytes(Encoding.PEM) for crl in _newest_of_each(now))


def _newest_of_each(now: datetime) -> Iterator[Crl]:
    for issuer in Issuer.objects.order_by("id"):
        crl = newest(issuer)
        # An ended CA's last list leaves before it is out of date: one outdated list makes the whole file so.
        if crl is not None and (issuer.not_after > now or crl.next_update > now + timedelta(hours=2)):
            yield crl


def newest(issuer: Issuer) -> Crl | None:
    return Crl.objects.filter(issuer=issuer).order_by("-number").first()


def _publish_root_lists(now: datetime, *, naming: Issuer | None = None) -> None:
    """Renew each root's list when a third of its life is left, and at once the one that must name a revoked CA.

    A root's key is meant to be offline: without it, the old list goes on and the issuing CAs' lists must not stop.
    """
    for root in Issuer.objects.filter(kind=Issuer.ROOT, not_after__gt=now).order_by("id"):
        held = newest(root)
        force = naming is not None and naming.certificate.issuer == root.certificate.subject
        if held is not None and not force and held.next_update - now >= ROOT_LIST_LIFE / 3 and not _is_behind(held):
            continue
        try:
            _new_list(root, now, ROOT_LIST_LIFE)
        except ca_keys.CaKeyError as error:
            if held is None or force:
                raise
            logger.error(
                "the root CA's revocation list must be renewed: bring back its key and run publish_crl",
                extra={"next_update": held.next_update.isoformat(), "reason": str(error)},
            )


def _is_behind(held: Crl) -> bool:
    """Tell whether a newer list than the database's was published: the database was restored from a backup since."""
    try:
        published = numbers_in(settings.CRL_FILE)
    except (OSError, ValueError):
        return False
    return published.get(held.issuer.certificate.subject.public_bytes(), 0) > held.number


def _new_list(issuer: Issuer, now: datetime, life: timedelta) -> Crl:
    held = newest(issuer)
    # The time, so that the lists of a database restored from a backup are newer than those of before, everywhere.
    number = max(held.number + 1 if held else 1, int(now.timestamp()))
    key = ca_keys.load(issuer.name)
    # The list at once: the builder's own add_revoked_certificate copies everything for each entry.
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=issuer.certificate.subject,
        last_update=now - BACKDATE,
        next_update=now + life,
        revoked_certificates=list(_entries(issuer, now)),
    )
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    ).add_extension(x509.CRLNumber(number), critical=False)
    der = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    crl = Crl.objects.create(issuer=issuer, number=number, this_update=now - BACKDATE, next_update=now + life, der=der)
    kept = Crl.objects.filter(issuer=issuer).order_by("-number").values_list("number", flat=True)[KEPT - 1 : KEPT]
    Crl.objects.filter(issuer=issuer, number__lt=min(kept, default=0)).delete()
    return crl


def _entries(issuer: Issuer, now: datetime) -> Iterator[x509.RevokedCertificate]:
    """Yield what an issuer's list must name: certificates it issued, and below a root also issuing CAs."""
    revoked = Certificate.objects.filter(issuer=issuer).revoked_on_list(since=now - GRACE)
    for serial_number, revoked_at, reason in revoked.values_list("serial_number", "revoked_at", "reason"):
        assert revoked_at is not None
        yield _entry(int(serial_number, 16), revoked_at, reason)
    if issuer.kind == Issuer.ROOT:
        for below in Issuer.objects.exclude(kind=Issuer.ROOT).exclude(revoked_at=None):
            if below.certificate.issuer == issuer.certificate.subject and below.not_after > now - GRACE:
                assert below.revoked_at is not None
                yield _entry(below.certificate.serial_number, below.revoked_at, below.reason)


def _entry(serial_number: int, revoked_at: datetime, reason: str) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial_number).revocation_date(revoked_at)
    if reason:
        builder = builder.add_extension(x509.CRLReason(ISSUER_REASONS[reason]), critical=False)
    return builder.build()
