"""What the CA has made: issuers, certificates, revocation lists."""

from datetime import datetime
from typing import ClassVar

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


class Issuer(models.Model):
    """A CA certificate: the root, or the issuing CA below it."""

    ROOT, ISSUING = "root", "issuing"

    name = models.CharField(max_length=16, unique=True, choices=[(ROOT, "Root CA"), (ISSUING, "Issuing CA")])
    der = models.BinaryField()
    not_after = models.DateTimeField()

    def __str__(self) -> str:
        return self.get_name_display()

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(bytes(self.der))


class CertificateQuerySet(models.QuerySet["Certificate"]):
    def live(self, now: datetime) -> "CertificateQuerySet":
        return self.filter(revoked_at=None, not_after__gt=now)

    def revoked_on_list(self, since: datetime) -> "CertificateQuerySet":
        """Those a list must name: revoked, and not expired before `since`."""
        return self.exclude(revoked_at=None).filter(not_after__gt=since)


class Certificate(models.Model):
    """A certificate this CA issued. `usage` is its one extended key usage: client or server."""

    issuer = models.ForeignKey(Issuer, on_delete=models.PROTECT, related_name="certificates")
    serial_number = models.CharField(max_length=40, help_text="hex")
    role = models.CharField(max_length=16, choices=[(role, role) for role in ROLES])
    name = models.CharField(max_length=64, db_index=True)
    usage = models.CharField(max_length=8)
    fingerprint = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the certificate, hex")
    spki_sha256 = models.CharField(max_length=64, db_index=True, help_text="SHA-256 of the public key, hex")
    not_before = models.DateTimeField()
    not_after = models.DateTimeField(db_index=True)
    der = models.BinaryField()
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
            return "revoked"
        return "expired" if self.not_after <= now else "valid"


class Crl(models.Model):
    """A published revocation list, numbered per issuer (RFC 5280 §5.2.3)."""

    issuer = models.ForeignKey(Issuer, on_delete=models.PROTECT, related_name="crls")
    number = models.PositiveBigIntegerField()
    this_update = models.DateTimeField()
    next_update = models.DateTimeField()
    der = models.BinaryField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["issuer", "number"], name="crl_number_unique_per_issuer")
        ]

    def __str__(self) -> str:
        return f"CRL {self.number} of the {self.issuer}"
