from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from certs_app.audit import Actor
from certs_app.ca_keys import CaKeyError
from certs_app.issuing import IssuingRefused
from certs_app.management import finding
from certs_app.management.commands.issue_cert import is_key_of, read_csr, stem_of, write
from certs_app.models import Certificate
from certs_app.profiles import CLIENT, PROFILES, SERVER
from certs_app.renewing import renew


class Command(BaseCommand):
    help = (
        "Issue the successor of a certificate: the same names and life, a new key unless a CSR is given. The old one "
        "goes on, until the new one is first used; then it is superseded. The services renew their own."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("who", metavar="NAME|SERIAL")
        parser.add_argument(
            "--role", choices=sorted(PROFILES), default="", help="when a name has certificates of several roles"
        )
        parser.add_argument("--usage", choices=[CLIENT, SERVER], default="", help="when an owner has both")
        parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write to; files there are replaced")
        parser.add_argument("--csr", type=Path, metavar="FILE", help="PEM request; only its public key is taken")

    def handle(self, **options: Any) -> None:
        now = timezone.now()
        newest = _newest(options["who"], options["role"], options["usage"], now)
        folder, csr = options["out"] or settings.CERTIFICATES_DIR, read_csr(options["csr"])
        stem = stem_of(newest.name, newest.role, newest.usage)
        key_file = folder / f"{stem}.key"
        if csr and key_file.exists() and not is_key_of(key_file, csr):
            raise CommandError(f"{key_file} is not the key of this CSR: give another --out folder.")
        try:
            issued = renew(newest, csr, now, Actor.operator())
        except (IssuingRefused, CaKeyError) as error:
            raise CommandError(str(error)) from None
        write(issued, folder, stem)
        self.stdout.write(f"Renewed {issued.row} ({issued.row.usage}), serial number {issued.row.serial_number}")
        self.stdout.write(f"valid until {issued.row.not_after:%Y-%m-%d %H:%M} UTC, in {folder / stem}.crt")


def _newest(who: str, role: str, usage: str, now: datetime) -> Certificate:
    """Return the one in force that ends last: an earlier one may have been renewed already."""
    found = finding.certificates(who, role).current(now)
    finding.one_role(found, who)
    if usage:
        found = found.filter(usage=usage)
    usages = sorted(set(found.values_list("usage", flat=True)))
    if len(usages) > 1:
        raise CommandError(f"{who!r} has certificates of several usages ({', '.join(usages)}): add --usage")
    newest = found.order_by("not_after", "id").last()
    if newest is None:
        raise CommandError(f"no certificate of {who!r} is in force: issue a new one with issue_cert")
    return newest
