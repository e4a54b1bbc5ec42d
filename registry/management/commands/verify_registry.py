import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError, CommandParser

from certs_app.management import finding
from certs_app.management.progress import Bar
from certs_app.management.teaching import TeachingCommand
from registry.keyring import KeyRingError, ring
from registry.verifying import Finding, Tally, verify

CANNOT_LOOK = 2


class Command(TeachingCommand):
    help = (
        "Open every message and every list of the search index, and name each that was changed, moved or taken out. "
        "It changes nothing and can run at any time. Exit code 0: everything is well; 1: something is bad; 2: the key "
        "ring cannot be used."
    )
    examples = (
        ("Everything", ""),
        ("What came since a day", "--since 2026-11-24"),
        ("For another program", "--json"),
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--since", metavar="DATE", help="e.g. 2026-11-24 or 2026-11-24T18:00 (UTC)")
        parser.add_argument("--json", action="store_true", help="a JSON object, for programs")

    def handle(self, **options: Any) -> None:
        since = finding.moment(options["since"]) if options["since"] else None
        try:
            ring()
        except KeyRingError as error:
            raise CommandError(str(error), returncode=CANNOT_LOOK) from None
        tally, bar = Tally(), Bar()
        try:
            found = verify(since, tally, lambda done: bar.show(done, f"{tally.bad} bad"))
            if options["json"]:
                self._write_json(found, tally)
            else:
                self._write_lines(found, tally, bar)
        finally:
            bar.clear()
        if tally.bad:
            sys.exit(1)

    def _write_lines(self, found: Iterable[Finding], tally: Tally, bar: Bar) -> None:
        for one in found:
            bar.clear()
            self.stdout.write(str(one))
        bar.clear()
        self.stdout.write(f"Looked at {tally.messages} messages and {tally.runs} runs of the search index.")
        if tally.stale_runs:
            self.stdout.write(f"Not compared: {tally.stale_runs} stale runs, which are about to be made anew.")
        if tally.bad:
            self.stdout.write(f"{tally.bad} bad: docs/operations.md says what to do.")
        else:
            self.stdout.write("Everything is as it was stored.")

    def _write_json(self, found: Iterable[Finding], tally: Tally) -> None:
        # As it is found: there may be more than fits into memory.
        comma = ""
        self.stdout.write('{"findings": [', ending="")
        for one in found:
            self.stdout.write(f"{comma}\n{json.dumps(one.as_dict())}", ending="")
            comma = ","
        self.stdout.write(f'\n], "looked_at": {json.dumps(asdict(tally))}}}')
