"""Find what an operator means: certificates by name or by serial number as people copy it, and the files of a pair."""

from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings
from django.core.management.base import CommandError
from django.db.models import Q

from certs_app.identity import read_serial_number
from certs_app.models import Certificate, CertificateQuerySet


def certificates(who: str, role: str = "") -> CertificateQuerySet:
    """Return those with this name or serial number. Raises CommandError when there are none."""
    found = Certificate.objects.filter(Q(name=who) | Q(serial_number=read_serial_number(who)))
    if role:
        found = found.filter(role=role)
    if not found.exists():
        raise CommandError(f"there is no certificate named or numbered {who!r}: `manage.py list_certs` shows all")
    return found


def one_role(found: CertificateQuerySet, who: str) -> None:
    """Raise CommandError when `found` belongs to several owners of one name: a person means one of them."""
    roles = sorted(set(found.values_list("role", flat=True)))
    if len(roles) > 1:
        raise CommandError(f"{who!r} has certificates of several roles ({', '.join(roles)}): add --role")


def pair(stem: str) -> tuple[Path, Path]:
    """Return the certificate's and the key's file that `issue_cert` wrote. Raises CommandError when there are none."""
    folder = Path(settings.CERTIFICATES_DIR)
    if Path(stem).name != stem:
        raise CommandError(f"{stem!r} is a path: give the bare name of a pair in {folder}")
    certificate, key = folder / f"{stem}.crt", folder / f"{stem}.key"
    if not certificate.exists():
        raise CommandError(f"{certificate} does not exist; {pairs()}")
    return certificate, key


def pairs() -> str:
    """Say which pairs the certificate folder holds."""
    folder = Path(settings.CERTIFICATES_DIR)
    there = ", ".join(sorted(file.stem for file in folder.glob("*.key")))
    return f"pairs in {folder}: {there or 'none'}"


def moment(text: str) -> datetime:
    """Read a date (2026-11-24) or a date with a time; without a zone it is UTC. Raises CommandError."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{text!r} is no date: write 2026-11-24, or 2026-11-24T18:00") from None
    return read if read.tzinfo else read.replace(tzinfo=UTC)
