from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from certs_app.management.teaching import TeachingCommand
from registry import canaries, keyring, reindexing
from registry.checkpoints import Checkpoint
from registry.keyring import KeyRingError
from registry.management.bars import bar
from registry.models import Message
from registry.search.building import Overtaken

PARTLY = 3


class Command(TeachingCommand):
    help = (
        "Bring the search index under the primary index key and the current rules for words: after `keys promote "
        "index`, when searches find everything meanwhile, or after an upgrade that changed the rules, when they find "
        "what was made anew. Killed, it goes on where it was. Exit codes: 0 done, 1 it could not be done, 3 some of it "
        "is left."
    )
    examples = (
        ("How much is there to do?", "--dry-run"),
        ("What is not up to date", ""),
        ("Everything, whatever it is", "--all"),
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--all", action="store_true", help="make every segment anew, also those that are up to date"
        )
        parser.add_argument(
            "--rate", type=int, default=0, metavar="N", help="at most N senders a second (default: no limit)"
        )
        parser.add_argument("--dry-run", action="store_true", help="change nothing; say how much would be made anew")

    def handle(self, **options: Any) -> None:
        try:
            canaries.check(keyring.document())
        except KeyRingError as error:
            raise CommandError(f"{error}. Restore the key file that belongs to this database.") from None
        segments = reindexing.all_segments() if options["all"] else reindexing.outdated()
        newest = Message.objects.order_by("-id").values_list("id", flat=True).first() or 0
        if options["dry_run"]:
            self.stdout.write(
                f"{len(segments):,} segments of up to 65,536 messages would be made anew, and the senders of "
                f"{newest:,} rows looked at. Nothing was changed."
            )
            return
        left = self._all(segments) if options["all"] else self._outdated(segments)
        senders = self._senders(newest, max(0, options["rate"]))
        self.stdout.write(
            f"{len(segments) - left:,} segments made anew; {senders.done:,} senders rewritten, {senders.failed:,} "
            "cannot be opened."
        )
        if left:
            raise CommandError(f"{left:,} segments changed all the time: run it again.", returncode=PARTLY)

    def _outdated(self, segments: list[int]) -> int:
        """Return how many are left."""
        left = 0
        with bar("Segments", len(segments)) as move:
            for number, segment in enumerate(segments, start=1):
                try:
                    reindexing.rebuild(segment, timezone.now())
                except Overtaken:
                    left += 1
                move(number)
        return left

    def _all(self, segments: list[int]) -> int:
        with bar("Segments", (segments or [0])[-1] + 1) as move:
            try:
                for checkpoint in reindexing.rebuild_all(timezone.now()):
                    move(checkpoint.last_id)
            except Overtaken:
                return 1
        return 0

    def _senders(self, newest: int, rate: int) -> Checkpoint:
        work = reindexing.senders(timezone.now(), rate)
        with bar("Senders", newest) as move:
            for checkpoint in work:
                move(checkpoint.last_id)
        return checkpoint
