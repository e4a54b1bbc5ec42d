import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import Q

from certs_app import audit
from certs_app.identity import read_serial_number
from certs_app.management import finding
from certs_app.management.teaching import TeachingCommand
from certs_app.models import AuditEvent


class Command(TeachingCommand):
    help = "List what the CA did, who had it done and with which certificate, the newest last."
    examples = (
        ("What was done with alice's certificates, and what alice had done", "--who alice"),
        ("Everything since a day", "--since 2026-11-24"),
        ("Is the record whole? Exit code 1 if an event was changed or taken out", "--verify"),
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--who", metavar="NAME", help="who did it or whom it was done to: name or serial number")
        parser.add_argument("--since", metavar="DATE", help="e.g. 2026-11-24 or 2026-11-24T18:00 (UTC)")
        parser.add_argument("--json", action="store_true", help="a JSON list, for programs")
        parser.add_argument("--verify", action="store_true", help="walk the whole chain of digests; lists nothing")

    def handle(self, **options: Any) -> None:
        if options["verify"]:
            self._verify()
            return
        events = AuditEvent.objects.order_by("id")
        if options["who"]:
            events = events.filter(_concerns(options["who"]))
        if options["since"]:
            events = events.filter(at__gte=finding.moment(options["since"]))
        if options["json"]:
            self.stdout.write(json.dumps([as_dict(event) for event in events], indent=1))
            return
        for event in events.iterator():
            self.stdout.write(line(event))

    def _verify(self) -> None:
        first = next(audit.broken(), None)
        if first is not None:
            raise CommandError(
                f"The record is broken at event {first.pk} ({line(first)}): it was changed, or an event before it was "
                "taken out. Compare with the log of the CA's processes, which has every digest."
            )
        last = AuditEvent.objects.order_by("id").last()
        if last is None:
            self.stdout.write("The record is empty.")
            return
        self.stdout.write(f"The record is whole: {AuditEvent.objects.count()} events.")
        # What was cut off at the end leaves a whole chain; only an anchor elsewhere shows it.
        self.stdout.write(f"Its last digest, to compare with the log's last: {last.digest}")


def line(event: AuditEvent) -> str:
    """Say an event in one line."""
    numbers = [f" [{number}]" if number else "" for number in (event.actor_certificate, event.subject_certificate)]
    detail = f": {event.detail}" if event.detail else ""
    return f"{event.at:%Y-%m-%d %H:%M:%S}  {event.actor}{numbers[0]} {event.action} {event.subject}{numbers[1]}{detail}"


def as_dict(event: AuditEvent) -> dict[str, str]:
    names = ("actor", "actor_certificate", "action", "subject", "subject_certificate", "detail", "digest")
    return {"at": event.at.isoformat(), **{name: getattr(event, name) for name in names}}


def _concerns(who: str) -> Q:
    number = read_serial_number(who)
    condition = Q(actor=who) | Q(subject=who) | Q(actor_certificate=number) | Q(subject_certificate=number)
    # client/alice, operator:alice
    for mark in ("/", ":"):
        condition |= Q(actor__endswith=f"{mark}{who}") | Q(subject__endswith=f"{mark}{who}")
    return condition
