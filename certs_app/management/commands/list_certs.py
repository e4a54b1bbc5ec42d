from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from certs_app.models import Certificate
from certs_app.profiles import PROFILES


class Command(BaseCommand):
    help = "List certificates: state, role, name, usage, serial number, expiry."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--role", choices=sorted(PROFILES))
        parser.add_argument("--live", action="store_true", help="only those neither revoked nor expired")

    def handle(self, **options: Any) -> None:
        now = timezone.now()
        certificates = Certificate.objects.order_by("role", "name", "not_after")
        if options["role"]:
            certificates = certificates.filter(role=options["role"])
        if options["live"]:
            certificates = certificates.live(now)
        row = "{:8} {:10} {:24} {:7} {:40} {}"
        self.stdout.write(row.format("STATE", "ROLE", "NAME", "USAGE", "SERIAL NUMBER", "VALID UNTIL (UTC)"))
        for one in certificates:
            until = f"{one.not_after:%Y-%m-%d %H:%M}"
            self.stdout.write(row.format(one.state(now), one.role, one.name, one.usage, one.serial_number, until))
