import json
from collections import Counter
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from certs_app.management.teaching import TeachingCommand
from registry import canaries, keyring, resealing
from registry.keyring import KeyRingError, ring
from registry.management.bars import bar
from registry.resealing import Bad, Resealing

PARTLY = 3
_SHOWN = 20


class Command(TeachingCommand):
    help = (
        "Seal every stored value anew by the primary encryption key, after `keys promote`. Killed, it goes on where it "
        "was; messages can be stored and read meanwhile. Exit codes: 0 all is under the primary key, 1 it could not be "
        "done, 3 some values are left."
    )
    examples = (
        ("How much is there to do?", "--dry-run"),
        ("All of it, beside a busy registry", "--rate 2000"),
        ("Open every value, and count by which key", "--verify"),
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--rate", type=int, default=0, metavar="N", help="at most N rows a second (default: no limit)"
        )
        parser.add_argument("--json", action="store_true", help="JSON, for programs")
        other = parser.add_mutually_exclusive_group()
        other.add_argument("--dry-run", action="store_true", help="change nothing; count the values of other keys")
        other.add_argument("--verify", action="store_true", help="change nothing; open every value")

    def handle(self, **options: Any) -> None:
        try:
            canaries.check(keyring.document())
        except KeyRingError as error:
            raise CommandError(f"{error}. Restore the key file that belongs to this database.") from None
        self._bad = 0
        if options["verify"]:
            self._verify(options)
        elif options["dry_run"]:
            self._say(options, "Nothing was changed", resealing.count_by_key())
        else:
            self._reseal(options)

    def _reseal(self, options: dict[str, Any]) -> None:
        done = 0
        for table in resealing.tables():
            work = Resealing(table, timezone.now(), self._report)
            before = work.checkpoint
            with bar(f"Resealing {table}", table.newest(), before.last_id) as move:
                for checkpoint in work.run(max(0, options["rate"])):
                    move(checkpoint.last_id)
            done += checkpoint.done
        self._say(options, f"{done:,} rows resealed", resealing.count_by_key())

    def _verify(self, options: dict[str, Any]) -> None:
        total: Counter[int] = Counter()
        for table in resealing.tables():
            with bar(f"Opening {table}", table.newest()) as move:
                for last_id in resealing.verify(table, total, self._report):
                    move(last_id)
        self._say(options, "Every value was opened", total)

    def _report(self, bad: Bad) -> None:
        self._bad += 1
        if self._bad <= _SHOWN:
            self.stderr.write(f"cannot be opened ({bad.reason}): {bad.column} of {bad.uid}")
        elif self._bad == _SHOWN + 1:
            self.stderr.write("and more: the log has every one")

    def _say(self, options: dict[str, Any], what: str, counted: "Counter[int]") -> None:
        primary = ring().encryption.primary
        left = counted.total() - counted[primary]
        if options["json"]:
            found = {"primary": primary, "by_key": dict(sorted(counted.items())), "left": left, "unreadable": self._bad}
            self.stdout.write(json.dumps(found, indent=1))
        else:
            for key_id, number in sorted(counted.items()):
                self.stdout.write(f"key {key_id:>4}: {number:,} values{' (primary)' if key_id == primary else ''}")
            self.stdout.write(f"{what}. {left:,} values are not under the primary key, {self._bad:,} cannot be opened.")
        if (left or self._bad) and not options["dry_run"]:
            raise CommandError(
                "Some values are left. Those that others wrote meanwhile: run it again.", returncode=PARTLY
            )
