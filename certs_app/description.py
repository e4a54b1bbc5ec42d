"""Everything about a certificate, for a person: what is in it, and what the CA knows of it."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID
from django.conf import settings
from django.db.models import Q

from certs_app import audit
from certs_app.identity import IdentityError, serial_hex, spiffe_identity
from certs_app.models import AuditEvent, Certificate, Issuer

Description = dict[str, Any]

NOT_OURS = "not issued by this CA"
_USAGES = {
    ExtendedKeyUsageOID.CLIENT_AUTH: "client",
    ExtendedKeyUsageOID.SERVER_AUTH: "server",
}


def of_row(row: Certificate, now: datetime) -> Description:
    """Describe a certificate that this CA issued."""
    events = AuditEvent.objects.filter(_about(row)).order_by("id")
    return {
        **of_content(row.certificate, now),
        "state": row.state(now),
        "chain": [str(issuer.subject.rfc4514_string()) for issuer in chain(row.certificate)],
        "replaces": row.replaces.serial_number if row.replaces else "",
        "replaced_by": [one.serial_number for one in row.replaced_by.order_by("id")],
        "first_used": _time(row.first_used_at),
        "superseded": _time(row.superseded_at),
        "revoked": _time(row.revoked_at),
        "reason": row.reason,
        "revoked_by": next((event.actor for event in events if event.action == audit.REVOKED), ""),
        "events": [_event(event) for event in events],
    }


def of_issuer(issuer: Issuer, now: datetime) -> Description:
    """Describe one of the CAs itself."""
    certificate = issuer.certificate
    state = "revoked" if issuer.revoked_at else "expired" if issuer.not_after <= now else "valid"
    return {
        **of_content(certificate, now),
        "owner": str(issuer),
        "usage": f"signs {issuer.kind}",
        "state": state,
        "chain": [one.subject.rfc4514_string() for one in chain(certificate)],
        "revoked": _time(issuer.revoked_at),
        "reason": issuer.reason,
        "events": [_event(event) for event in AuditEvent.objects.filter(subject=str(issuer)).order_by("id")],
    }


def of_file(certificate: x509.Certificate, now: datetime) -> Description:
    """Describe whatever is in a file: with all the CA knows, when it is the CA's own."""
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    row = Certificate.objects.filter(fingerprint=fingerprint).first()
    if row is not None:
        return of_row(row, now)
    for issuer in Issuer.objects.all():
        if issuer.certificate == certificate:
            return of_issuer(issuer, now)
    return {**of_content(certificate, now), "state": NOT_OURS, "chain": [certificate.issuer.rfc4514_string()]}


def of_content(certificate: x509.Certificate, now: datetime) -> Description:
    """Describe what is in the certificate itself."""
    return {
        "owner": _owner(certificate),
        "usage": ", ".join(usages(certificate)) or "any",
        "serial_number": serial_hex(certificate.serial_number),
        "serial_number_colons": colons(certificate.serial_number),
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "days_left": (certificate.not_valid_after_utc - now).days,
        "names": names(certificate),
        "fingerprint": certificate.fingerprint(hashes.SHA256()).hex(),
        "key": key_kind(certificate.public_key()),
    }


def chain(certificate: x509.Certificate) -> list[x509.Certificate]:
    """Return the CAs above a certificate, the root last, as far as they are ours."""
    ours = [issuer.certificate for issuer in Issuer.objects.all()]
    above: list[x509.Certificate] = []
    while certificate.issuer != certificate.subject:
        found = issued_by(certificate, ours)
        if found is None:
            break
        above.append(found)
        certificate = found
    return above


def issued_by(certificate: x509.Certificate, authorities: Iterable[x509.Certificate]) -> x509.Certificate | None:
    """Return which of `authorities` signed it: the name alone can be anybody's."""
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            # Another name, another signature, another kind of key: each says "not this one".
            continue
        return authority
    return None


def usages(certificate: x509.Certificate) -> list[str]:
    """Return its extended key usages, ours by their short names."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return []
    return [_USAGES.get(usage, usage.dotted_string) for usage in found]


def names(certificate: x509.Certificate) -> list[str]:
    """Return its alternative names as openssl writes them: URI:..., DNS:..., IP Address:..."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    kinds: dict[type[x509.GeneralName], str] = {
        x509.UniformResourceIdentifier: "URI",
        x509.DNSName: "DNS",
        x509.IPAddress: "IP Address",
    }
    return [f"{kinds.get(type(name), type(name).__name__)}:{name.value}" for name in found]


def colons(serial_number: int) -> str:
    """Spell a serial number as openssl and Windows do: 0a:1b:..."""
    return serial_number.to_bytes((serial_number.bit_length() + 8) // 8).hex(":")


def key_kind(key: CertificatePublicKeyTypes) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    return "Ed25519" if isinstance(key, ed25519.Ed25519PublicKey) else type(key).__name__


def _owner(certificate: x509.Certificate) -> str:
    try:
        return "/".join(spiffe_identity(certificate, settings.TRUST_DOMAIN))
    except (IdentityError, ValueError):
        return certificate.subject.rfc4514_string()


def _about(row: Certificate) -> Q:
    # Serial numbers are unique per CA only; the owner tells two of one number apart.
    return Q(subject_certificate=row.serial_number, subject=str(row))


def _event(event: AuditEvent) -> dict[str, str]:
    return {"at": event.at.isoformat(), "actor": event.actor, "action": event.action, "detail": event.detail}


def _time(moment: datetime | None) -> str:
    return moment.isoformat() if moment else ""
