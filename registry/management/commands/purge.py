import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from certs_app.audit import Actor
from certs_app.management.teaching import TeachingCommand
from certs_app.per_client import BadNumbers
from registry import retention


class Command(TeachingCommand):
    help = (
        "Remove the messages that are older than MSGSYS_RETENTION_DAYS and MSGSYS_RETENTION_FILE allow, as the jobs "
        "process does by itself every hour."
    )
    examples = (
        ("What would go?", "--dry-run"),
        ("Now", ""),
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="count, and remove nothing")
        parser.add_argument("--json", action="store_true", help="a JSON object, for programs")

    def handle(self, **options: Any) -> None:
        now = timezone.now()
        try:
            rules = retention.policy()
        except BadNumbers as error:
            raise CommandError(str(error)) from None
        if options["dry_run"]:
            tally = retention.expired(rules, now)
        else:
            tally, _ = retention.purge(rules, now, Actor.operator())
        if options["json"]:
            self.stdout.write(json.dumps({"dry_run": options["dry_run"], **tally.as_dict()}, indent=1))
        elif rules.keeps_all:
            self.stdout.write("Messages are kept for ever: neither setting says otherwise.")
        else:
            self.stdout.write(f"{'Would go' if options['dry_run'] else 'Removed'}: {tally}.")
