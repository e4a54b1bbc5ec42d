import json
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from certs_app.audit import Actor
from certs_app.management.progress import Bar
from certs_app.management.teaching import TeachingCommand
from registry import senders
from registry.erasure import Report, erase, find
from registry.senders import NumberError

_MOST_CHARACTERS = 100
LEFT = 1

REMAINS = (
    "What this command does not reach:",
    "  - what still waits: the queue, workers, dead letters. Run it again once the queue is empty, and decide on the",
    "    dead letters (manage.py dead_letters).",
    "  - backups and replicas of the database, its binary log, and freed pages of its files.",
    "  - texts of other senders that mention this person; what clients keep themselves.",
    "  - ids, client names and times, without number or text: the registry's note of what was removed, logs,",
    "    ingest's ledger.",
)


class Command(TeachingCommand):
    help = (
        "Erase every message of one sender, with its steps and its entries in the search index. The number is asked "
        "for, or read from standard input: on the command line it would stand in the shell's history and in the list "
        "of processes. Exit code 0: all of them are gone; 1: some rows could not be opened and were left."
    )
    examples = (
        ("How many messages would go?", "--dry-run"),
        ("Erase them; the number is asked for", "--reason 'request 2026-117'"),
        ("From another program", "--sender - --yes --json < number.txt"),
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--sender", metavar="NUMBER|-", help="- reads standard input; without, you are asked")
        parser.add_argument("--reason", default="", metavar="TEXT", help="for the audit record; no number, no name")
        parser.add_argument("--dry-run", action="store_true", help="count, and erase nothing")
        parser.add_argument("--yes", action="store_true", help="do not ask; without a terminal this is needed")
        parser.add_argument("--json", action="store_true", help="a JSON object, for programs")

    def handle(self, **options: Any) -> None:
        number = _number(self._given(options["sender"]))
        reason = options["reason"][:_MOST_CHARACTERS]
        if senders.is_in(number, reason):
            raise CommandError("The reason goes into the audit record: leave the number out of it.")
        if options["dry_run"]:
            report = find(number)
        else:
            if not options["yes"]:
                self._confirm(number)
            bar = Bar()
            try:
                report = erase(number, reason, timezone.now(), Actor.operator(), bar.show)
            finally:
                bar.clear()
        if options["json"]:
            self.stdout.write(json.dumps(_document(report), indent=1))
        else:
            self._tell(report)
        if report.unreadable:
            sys.exit(LEFT)

    def _given(self, sender: str | None) -> str:
        if sender == "-":
            return sys.stdin.readline()
        if sender is not None:
            self.stderr.write("The number now stands in your shell's history: leave it out, and you are asked for it.")
            return sender
        if not sys.stdin.isatty():
            raise CommandError("there is no terminal to ask at: give --sender - and the number on standard input")
        return input("Sender's number: ")

    def _confirm(self, number: str) -> None:
        if not sys.stdin.isatty():
            raise CommandError(
                "this erases messages for ever, and there is no terminal to ask at. Look with --dry-run, then add "
                "--yes. Nothing was changed."
            )
        self.stderr.write(f"For ever: {find(number).tally}. Type 'erase' to go on: ", ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip() != "erase":
            raise CommandError("that was not it: nothing was changed")

    def _tell(self, report: Report) -> None:
        if report.unreadable:
            self.stdout.write(
                f"{report.unreadable} messages that may be this sender's do not open and were left: "
                "`manage.py verify_registry` names them."
            )
        if not report.name:
            self.stdout.write(f"Would go: {report.tally}.")
            return
        self.stdout.write(f"Erased: {report.tally}. In the audit record: {report.name}.")
        if report.stale_segments:
            self.stdout.write(f"{report.stale_segments} parts of the search index are left to the jobs process.")
        self.stdout.write("\n".join(REMAINS))


def _number(text: str) -> str:
    try:
        return senders.normalise(text)
    except NumberError as error:
        raise CommandError(str(error)) from None


def _document(report: Report) -> dict[str, object]:
    return {
        "dry_run": not report.name,
        "erasure": report.name or None,
        **report.tally.as_dict(),
        "unreadable": report.unreadable,
        "stale_segments": report.stale_segments,
    }
