"""Renew certificates: the same owner, names and life, another key and serial number."""

from datetime import datetime, timedelta

from cryptography import x509

from certs_app import audit
from certs_app.audit import Actor
from certs_app.authority import BACKDATE
from certs_app.issuing import Issued, IssuingRefused, Request, issue
from certs_app.models import REVOKED, SUPERSEDED, VALID, AuditEvent, Certificate
from certs_app.profiles import SERVER

# Somebody who renews and never uses what it gets is lost, or wants to fill the table.
MAX_UNUSED = 10
MAX_PER_HOUR = 120


class RenewalRefused(IssuingRefused):
    """This certificate cannot be renewed. The message says why."""


def renew(certificate: Certificate, csr: bytes, now: datetime, by: Actor) -> Issued:
    """Issue the successor of `certificate`: the same names and life, the key of `csr` (a new one when it is empty).

    Raises IssuingRefused, CaKeyError.
    """
    state = certificate.state(now)
    if state == REVOKED:
        raise RenewalRefused("a revoked certificate is not renewed")
    if state == SUPERSEDED:
        raise RenewalRefused("this certificate was renewed before, and its successor is in use: renew that one")
    if state != VALID:
        raise RenewalRefused("this certificate has expired: ask the operator for a new one")
    # Of the last day: answers that got lost must not add up until a service can renew no more.
    unused = certificate.replaced_by.filter(first_used_at=None, not_before__gt=now - timedelta(days=1))
    if unused.count() >= MAX_UNUSED:
        raise RenewalRefused(f"it was renewed {MAX_UNUSED} times within a day and none of those was used: use one")
    lately = AuditEvent.objects.filter(at__gt=now - timedelta(hours=1), action=audit.RENEWED, subject=str(certificate))
    if lately.count() >= MAX_PER_HOUR:
        raise RenewalRefused(f"this owner has renewed {MAX_PER_HOUR} times within the hour: try again later")
    old = certificate.certificate
    names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    server = certificate.usage == SERVER
    request = Request(
        name=certificate.name,
        role=certificate.role,
        usage=certificate.usage,
        dns=names.get_values_for_type(x509.DNSName) if server else (),
        ip=[str(address) for address in names.get_values_for_type(x509.IPAddress)] if server else (),
        csr=csr,
        life=life_of(certificate),
    )
    return issue(request, now, by, replaces=certificate)


def life_of(certificate: Certificate) -> timedelta | None:
    """Return how long it was issued for, without the minutes it was backdated; None when its CA's end cut it short."""
    if certificate.not_after >= certificate.issuer.not_after:
        return None
    whole = certificate.not_after - certificate.not_before
    return max(whole - BACKDATE, whole * 10 / 11)
