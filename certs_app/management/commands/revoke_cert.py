from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Q
from django.utils import timezone

from certs_app.ca_keys import CaKeyError
from certs_app.models import REASONS, Certificate
from certs_app.profiles import PROFILES
from certs_app.revocation_lists import revoke


class Command(BaseCommand):
    help = "Revoke a certificate by serial number, or all live ones of a name. Servers refuse it within a second."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("who", metavar="NAME|SERIAL")
        parser.add_argument(
            "--role", choices=sorted(PROFILES), help="needed when a name has certificates of several roles"
        )
        parser.add_argument("--reason", choices=sorted(REASONS), default="", help="why (RFC 5280 §5.3.1)")

    def handle(self, **options: Any) -> None:
        now = timezone.now()
        who = options["who"]
        found = Certificate.objects.filter(Q(name=who) | Q(serial_number=_serial_number(who)))
        if options["role"]:
            found = found.filter(role=options["role"])
        if not found.exists():
            raise CommandError(f"there is no certificate named or numbered {who!r}: `manage.py list_certs` shows all")
        live = found.live(now)
        found_roles = sorted(set(live.values_list("role", flat=True)))
        if len(found_roles) > 1:
            raise CommandError(f"{who!r} has certificates of several roles ({', '.join(found_roles)}): add --role")
        serial_numbers = list(live.values_list("serial_number", flat=True))
        if not serial_numbers:
            self.stdout.write(f"Nothing to revoke: every certificate of {who} is revoked or expired already.")
        try:
            # Published even then: the first attempt may have failed between the commit and the file.
            revoke(live, options["reason"], now)
        except CaKeyError as error:
            raise CommandError(f"{error}. Nothing was revoked.") from None
        for serial_number in serial_numbers:
            self.stdout.write(f"Revoked {found_roles[0]}/{who}, serial number {serial_number}")


def _serial_number(text: str) -> str:
    """Read a serial number as people copy it: openssl writes upper case, colons and leading zeros."""
    return text.lower().replace(":", "").lstrip("0")
