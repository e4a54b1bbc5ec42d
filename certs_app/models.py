"""What the CA has made: issuers, certificates, revocation lists, and the record of who asked for what."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar, NoReturn

from cryptography import x509
from django.db import models

from certs_app.identity import ROLES

# RFC 5280 §5.3.1, without the ones a private CA must not use: certificateHold cannot be trusted to be undone,
# removeFromCRL belongs to delta lists, unspecified is said by leaving the reason out.
REASONS = {
    "key_compromise": x509.ReasonFlags.key_compromise,
    "affiliation_changed": x509.ReasonFlags.affiliation_changed,
    "superseded": x509.ReasonFlags.superseded,
    "cessation_of_operation": x509.ReasonFlags.cessation_of_operation,
    "privilege_withdrawn": x509.ReasonFlags.privilege_withdrawn,
}
# An issuing CA is revoked for one reason more.
ISSUER_REASONS = {**REASONS, "ca_compromise": x509.ReasonFlags.ca_compromise}


class IssuerQuerySet(models.QuerySet["Issuer"]):
    def live(self, now: datetime) -> "IssuerQuerySet":
        return self.filter(revoked_at=None, not_after__gt=now)

    def locked(self) -> list["Issuer"]:
        """Lock every issuer, the root first, and return them: whoever changes what the CA says takes turns here."""
        return list(self.select_for_update().order_by("id"))

    def newest(self, kind: str, now: datetime) -> "Issuer | None":
        """Return the one that signs: the newest live one of its kind."""
        return self.live(now).filter(kind=kind).order_by("-id").first()


class Issuer(models.Model):
    """A CA certificate: the root, or an issuing CA below it. `name` also names its key file.

    `kind` is what it signs: the issuing CAs, client certificates or server certificates. Several of a kind can stand
    side by side: all are trusted, the newest signs.
    """

    ROOT, CLIENTS, SERVERS = "root", "clients", "servers"

    kind = models.CharField(max_length=16, choices=[(ROOT, "root"), (CLIENTS, "clients"), (SERVERS, "servers")])
    name = models.CharField(max_length=24, unique=True)
    der = models.BinaryField()
    not_after = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=32, blank=True, choices=[(reason, reason) for reason in ISSUER_REASONS])

    objects = IssuerQuerySet.as_manager()

    class Meta:
        verbose_name = "CA"

    def __str__(self) -> str:
        return f"{self.name} CA"

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(bytes(self.der))


class CertificateQuerySet(models.QuerySet["Certificate"]):
    def live(self, now: datetime) -> "CertificateQuerySet":
        return self.filter(revoked_at=None, not_after__gt=now)

    def current(self, now: datetime) -> "CertificateQuerySet":
        """Those that are live and not yet replaced by a newer one in use."""
        return self.live(now).filter(superseded_at=None)

    def in_state(self, state: str, now: datetime) -> "CertificateQuerySet":
        """Those whose `state` is this one."""
        if state == REVOKED:
            return self.exclude(revoked_at=None)
        if state == EXPIRED:
            return self.filter(revoked_at=None, not_after__lte=now)
        return self.live(now).filter(superseded_at__isnull=state == VALID)

    def with_successors(self) -> "CertificateQuerySet":
        """These, and whatever was renewed from them, in however many steps."""
        found = set(self.values_list("pk", flat=True))
        last = found
        while last:
            last = set(Certificate.objects.filter(replaces__in=last).values_list("pk", flat=True)) - found
            found |= last
        return Certificate.objects.filter(pk__in=found)

    def revoked_on_list(self, since: datetime) -> "CertificateQuerySet":
        """Those a list must name: revoked, and not expired before `since`."""
        return self.exclude(revoked_at=None).filter(not_after__gt=since)


VALID, SUPERSEDED, EXPIRED, REVOKED = STATES = ("valid", "superseded", "expired", "revoked")


class Certificate(models.Model):
    """A certificate this CA issued. `usage` is its one extended key usage: client or server.

    A renewed one names what it replaces; that one is superseded when the new one is first used, not before.
    """

    issuer = models.ForeignKey(Issuer, on_delete=models.PROTECT, related_name="certificates")
    serial_number = models.CharField(max_length=40, db_index=True, help_text="hex")
    role = models.CharField(max_length=16, choices=[(role, role) for role in ROLES])
    name = models.CharField(max_length=64, db_index=True)
    usage = models.CharField(max_length=8)
    fingerprint = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the certificate, hex")
    spki_sha256 = models.CharField(max_length=64, db_index=True, help_text="SHA-256 of the public key, hex")
    not_before = models.DateTimeField()
    not_after = models.DateTimeField(db_index=True)
    der = models.BinaryField()
    replaces = models.ForeignKey(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="replaced_by", help_text="renewed from"
    )
    first_used_at = models.DateTimeField(null=True, blank=True)
    superseded_at = models.DateTimeField(null=True, blank=True, help_text="when its successor was first used")
    revoked_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=32, blank=True, choices=[(reason, reason) for reason in REASONS])

    objects = CertificateQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["issuer", "serial_number"], name="certificate_serial_unique_per_issuer")
        ]

    def __str__(self) -> str:
        return f"{self.role}/{self.name}"

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(bytes(self.der))

    def state(self, now: datetime) -> str:
        if self.revoked_at is not None:
            return REVOKED
        if self.not_after <= now:
            return EXPIRED
        return VALID if self.superseded_at is None else SUPERSEDED


class Crl(models.Model):
    """A published revocation list, numbered per issuer (RFC 5280 §5.2.3)."""

    issuer = models.ForeignKey(Issuer, on_delete=models.PROTECT, related_name="crls")
    number = models.PositiveBigIntegerField()
    this_update = models.DateTimeField()
    next_update = models.DateTimeField()
    der = models.BinaryField()

    class Meta:
        verbose_name = "revocation list"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["issuer", "number"], name="crl_number_unique_per_issuer")
        ]

    def __str__(self) -> str:
        return f"CRL {self.number} of the {self.issuer}"


class AppendOnly(Exception):
    """An audit row is never changed and never removed."""


class AuditQuerySet(models.QuerySet["AuditEvent"]):
    def update(self, **changes: Any) -> NoReturn:
        raise AppendOnly("audit events are never changed")

    def bulk_update(self, objs: Iterable["AuditEvent"], fields: Any, batch_size: int | None = None) -> NoReturn:
        raise AppendOnly("audit events are never changed")

    def delete(self) -> NoReturn:
        raise AppendOnly("audit events are never removed")


class AuditEvent(models.Model):
    """Who had the CA do what, when, and with which certificate. Rows are only ever added.

    `digest` is the SHA-256 of the row and of the digest before it: a row changed or taken out breaks the chain. That
    two rows never follow the same one is the unique constraint on `previous`.
    """

    at = models.DateTimeField(db_index=True)
    actor = models.CharField(max_length=81, help_text="role/name of the caller's certificate, or operator:login")
    actor_certificate = models.CharField(max_length=40, blank=True, help_text="its serial number, hex")
    action = models.CharField(max_length=24, db_index=True)
    subject = models.CharField(max_length=81, help_text="role/name, or the CA")
    subject_certificate = models.CharField(max_length=40, blank=True, db_index=True, help_text="serial number, hex")
    detail = models.CharField(max_length=200, blank=True)
    previous = models.CharField(max_length=64, unique=True)
    digest = models.CharField(max_length=64)

    objects = AuditQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.subject}"

    def save(self, *args: Any, **options: Any) -> None:
        if not self._state.adding:
            raise AppendOnly("audit events are never changed")
        # Never an UPDATE, whatever id it was given.
        super().save(*args, **{**options, "force_insert": True})

    def delete(self, *args: Any, **options: Any) -> NoReturn:
        raise AppendOnly("audit events are never removed")
