import json
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from certs_app.description import Description, of_file, of_row
from certs_app.management import finding
from certs_app.management.teaching import TeachingCommand
from certs_app.models import Certificate
from certs_app.profiles import PROFILES

_LINES = (
    ("owner", "owner"),
    ("usage", "usage"),
    ("state", "state"),
    ("serial number", "serial_number"),
    ("", "serial_number_colons"),
    ("valid", "valid"),
    ("names", "names"),
    ("issued by", "chain"),
    ("key", "key"),
    ("SHA-256", "fingerprint"),
    ("replaces", "replaces"),
    ("replaced by", "replaced_by"),
    ("first used", "first_used"),
    ("superseded", "superseded"),
    ("revoked", "revocation"),
)


class Command(TeachingCommand):
    help = (
        "Show everything about a certificate: what is in it, its state, what it replaces, and who had what done with "
        "it. By name, the newest of each usage is shown in full."
    )
    examples = (
        ("The newest of an owner", "alice"),
        ("One by its number, as openssl and Windows spell it, or as list_certs does", "0A:1B:2C:..."),
        ("A file, ours or not", "var/people/alice.crt"),
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("who", metavar="NAME|SERIAL|FILE")
        parser.add_argument(
            "--role", choices=sorted(PROFILES), default="", help="when a name has certificates of several roles"
        )
        parser.add_argument("--json", action="store_true", help="a JSON list, for programs")

    def handle(self, **options: Any) -> None:
        now, who = timezone.now(), options["who"]
        if is_file(who):
            found, older = [of_file(_read(Path(who)), now)], list[str]()
        else:
            found, older = _of_name(who, options["role"], now)
        if options["json"]:
            self.stdout.write(json.dumps(found, indent=1))
            return
        for number, one in enumerate(found):
            self.stdout.write(("\n" if number else "") + "\n".join(lines(one)))
        if older:
            self.stdout.write(f"\nolder ones of the same owner: {', '.join(older)}")


def is_file(who: str) -> bool:
    """Tell a file from a name: "alice" is a name even in a folder that has such a file, "./alice" is not."""
    return Path(who).is_file() and (Path(who).name != who or not Certificate.objects.filter(name=who).exists())


def lines(one: Description) -> list[str]:
    """Return a description as lines for a person; what there is not is left out."""
    times = {name: _at(one[name]) for name in ("first_used", "superseded") if one.get(name)}
    shown: Description = {**one, **times, "valid": _validity(one), "revocation": _revocation(one)}
    said = []
    for title, name in _LINES:
        value = shown.get(name)
        for number, part in enumerate(value if isinstance(value, list) else [value]):
            if part:
                said.append(f"{title if number == 0 else '':14} {part}")
    for number, event in enumerate(one.get("events", ())):
        detail = f": {event['detail']}" if event["detail"] else ""
        said.append(
            f"{'record' if number == 0 else '':14} {_at(event['at'])}  {event['actor']} {event['action']}{detail}"
        )
    return said


def _of_name(who: str, role: str, now: datetime) -> tuple[list[Description], list[str]]:
    rows = finding.certificates(who, role)
    finding.one_role(rows, who)
    newest: dict[str, Certificate] = {}
    for row in rows.order_by("id"):
        newest[row.usage] = row
    older = rows.exclude(pk__in=[row.pk for row in newest.values()]).order_by("-id")
    return [of_row(row, now) for row in newest.values()], [f"{row.serial_number} ({row.state(now)})" for row in older]


def _read(file: Path) -> x509.Certificate:
    try:
        # A file that issue_cert wrote holds the issuer as well; the first is the owner's.
        return x509.load_pem_x509_certificates(file.read_bytes())[0]
    except (OSError, ValueError) as error:
        raise CommandError(f"{file} holds no certificate (PEM): {error}") from None


def _validity(one: Description) -> str:
    left = one["days_left"]
    said = f"{left} days left" if left >= 0 else f"ended {-left} days ago"
    return f"{_at(one['not_before'])} to {_at(one['not_after'])} UTC ({said})"


def _revocation(one: Description) -> str:
    if not one.get("revoked"):
        return ""
    by = f" by {one['revoked_by']}" if one.get("revoked_by") else ""
    return f"{_at(one['revoked'])} UTC{by}, reason: {one['reason'] or 'not given'}"


def _at(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M}"
