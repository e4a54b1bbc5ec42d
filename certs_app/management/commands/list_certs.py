import json
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from certs_app.models import Certificate, CertificateQuerySet, Issuer
from certs_app.profiles import PROFILES


class Command(BaseCommand):
    help = "List certificates: state, role, name, usage, serial number, expiry. With --expiring, the CAs as well."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--role", choices=sorted(PROFILES))
        parser.add_argument("--issuer", metavar="CA", default="", help="only those this CA issued: clients, servers, …")
        parser.add_argument("--live", action="store_true", help="only those neither revoked nor expired")
        parser.add_argument(
            "--expiring", type=int, metavar="DAYS", help="only those in force that expire within so many days"
        )
        parser.add_argument("--json", action="store_true", help="a JSON list, for programs")

    def handle(self, **options: Any) -> None:
        now = timezone.now()
        certificates = Certificate.objects.order_by("role", "name", "not_after")
        if options["role"]:
            certificates = certificates.filter(role=options["role"])
        if options["issuer"]:
            certificates = certificates.filter(issuer__name=options["issuer"])
        if options["live"]:
            certificates = certificates.live(now)
        rows = []
        if options["expiring"] is not None:
            until = now + timedelta(days=options["expiring"])
            certificates = certificates.current(now).filter(not_after__lte=until)
            rows = [_issuer(one) for one in Issuer.objects.live(now).filter(not_after__lte=until).order_by("id")]
        rows += _rows(certificates, now)
        if options["json"]:
            self.stdout.write(json.dumps(rows, indent=1))
        else:
            self._table(rows)

    def _table(self, rows: list[dict[str, str]]) -> None:
        row = "{:10} {:10} {:24} {:7} {:40} {}"
        self.stdout.write(row.format("STATE", "ROLE", "NAME", "USAGE", "SERIAL NUMBER", "VALID UNTIL (UTC)"))
        for one in rows:
            until = one["not_after"][:16].replace("T", " ")
            shown = (one["state"], one["role"], one["name"], one["usage"], one["serial_number"], until)
            self.stdout.write(row.format(*shown))


def _rows(certificates: CertificateQuerySet, now: datetime) -> list[dict[str, str]]:
    return [
        {
            "state": one.state(now),
            "role": one.role,
            "name": one.name,
            "usage": one.usage,
            "serial_number": one.serial_number,
            "not_before": one.not_before.isoformat(),
            "not_after": one.not_after.isoformat(),
            "reason": one.reason,
        }
        for one in certificates.defer("der")
    ]


def _issuer(issuer: Issuer) -> dict[str, str]:
    certificate = issuer.certificate
    return {
        "state": "valid",
        "role": "(CA)",
        "name": issuer.name,
        "usage": "ca",
        "serial_number": f"{certificate.serial_number:x}",
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": issuer.not_after.isoformat(),
        "reason": "",
    }
