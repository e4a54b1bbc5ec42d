"""What stands inside certificates and revocation lists. Reading them needs no key."""

import base64
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from itertools import islice
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from django.utils.html import format_html
from django.utils.safestring import SafeString

from certs_app.identity import serial_hex
from certs_app.models import Certificate, Crl, Issuer

CERTIFICATE, CRL = "CERTIFICATE", "X509 CRL"

_UNREADABLE = (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)

_Self = TypeVar("_Self")
_Row = TypeVar("_Row")


def or_unreadable(show: Callable[[_Self, _Row], Any]) -> Callable[[_Self, _Row], Any]:
    """Say "unreadable" where a row's DER cannot be read: one spoiled row must not break its page."""

    @wraps(show)
    def shown(self: _Self, row: _Row) -> Any:
        try:
            return show(self, row)
        except _UNREADABLE:
            return unreadable()

    return shown


def unreadable() -> SafeString:
    return format_html('<span class="unreadable">{}</span>', "unreadable")


def pem(label: str, der: bytes) -> bytes:
    """Put DER into PEM (RFC 7468), whether or not it can be read: a spoiled row is to be looked at elsewhere."""
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def alternative_names(certificate: Certificate) -> list[str]:
    """Return the names of the certificate's owner: its one URI, host names, addresses."""
    names = certificate.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def up_to_root(issuer: Issuer) -> Iterator[Issuer]:
    """Yield this CA and the root that signed it. Without its root here, the chain ends early."""
    yield issuer
    if issuer.kind != Issuer.ROOT:
        below = issuer.certificate
        roots = Issuer.objects.filter(kind=Issuer.ROOT).order_by("id")
        yield from islice((root for root in roots if _signed(below, root.certificate)), 1)


def _signed(below: x509.Certificate, above: x509.Certificate) -> bool:
    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


@dataclass(frozen=True)
class Entry:
    """One line of a revocation list. `certificate` is (id, role/name) where the number is one of ours."""

    serial_number: str
    at: datetime
    reason: str
    certificate: tuple[int, str] | None


def entries(crl: Crl, first: int) -> tuple[list[Entry], int]:
    """Return the first entries of a list, and how many it has. Raises ValueError when it cannot be read."""
    parsed = x509.load_der_x509_crl(bytes(crl.der))
    start = list(islice(parsed, first))
    numbers = [serial_hex(entry.serial_number) for entry in start]
    owners = _owners(crl, numbers)
    rows = zip(numbers, start, strict=True)
    return [Entry(no, one.revocation_date_utc, _reason(one), owners.get(no)) for no, one in rows], len(parsed)


def _owners(crl: Crl, numbers: list[str]) -> dict[str, tuple[int, str]]:
    found = Certificate.objects.filter(issuer=crl.issuer_id, serial_number__in=numbers)
    columns = found.values_list("serial_number", "pk", "role", "name")
    return {number: (pk, f"{role}/{name}") for number, pk, role, name in columns}


def _reason(entry: x509.RevokedCertificate) -> str:
    try:
        return entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.name
    except x509.ExtensionNotFound:
        return ""
