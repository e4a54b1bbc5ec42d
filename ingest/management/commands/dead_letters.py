"""manage.py dead_letters: what the registry rejected for good, seen and handled at the node that has the queue."""

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import redis
from django.core.management.base import CommandError, CommandParser

from certs_app.management import finding
from certs_app.management.teaching import TeachingCommand, epilog
from ingest import dead_letters
from ingest.dead_letters import Letter, QueueFull
from ingest.management import id_files
from wire.dead_letters import explain

# Exit codes besides 0 (done), 1 (it could not be done) and 2 (the arguments are wrong).
PARTLY = 3

_LISTED = 100
_SHOWN_REFUSALS = 10

_EXAMPLES = {
    "list": (
        ("The newest 100, and why each was rejected", "list"),
        ("Everything since a day with one reason, for a program", "list --since 2026-11-24 --code bad_seal --json"),
    ),
    "show": (("Who signed it, and to which key it is sealed", "show 01997e2c-5c10-7000-8000-00000000002a"),),
    "requeue": (
        ("How many would go back into the queue", "requeue --code bad_seal --dry-run"),
        ("The oldest ten first, to see whether the cause is repaired", "requeue --code bad_seal --limit 10"),
        ("Those whose ids a file lists", "requeue --ids ids.txt"),
    ),
    "drop": (
        ("How many would be deleted", "drop --code malformed_entry --dry-run"),
        ("Delete one without being asked", "drop --id 01997e2c-5c10-7000-8000-00000000002a --yes"),
        ("Delete all of one reason, and keep their ids", "drop --code signer_revoked --yes > dropped.txt"),
    ),
    "export-ids": (("All ids into a file, the oldest first", "export-ids --out ids.txt"),),
}


class Command(TeachingCommand):
    help = (
        "Look at and handle dead letters: envelopes the registry rejected for good. Runs where the queue's Redis is "
        "reached, at the worker's or ingest's node. Exit codes: 0 done, 1 it could not be done, 2 wrong arguments, "
        "3 done in part."
    )
    # It needs the queue and nothing else: no database, no keys, no certificates.
    requires_system_checks: list[str] = []
    examples = tuple(one for examples in _EXAMPLES.values() for one in examples)

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        _list(_action(actions, "list", "List the newest: id, reason, when, size."))
        _show(_action(actions, "show", "Show what is known of single ones: reason, remedy, the envelope's header."))
        _choosing(requeue := _action(actions, "requeue", "Put them back into the queue: the worker tries them again."))
        _choosing(drop := _action(actions, "drop", "Delete them for ever. Their messages reach the registry no more."))
        for changing in (requeue, drop):
            changing.add_argument("--dry-run", action="store_true", help="change nothing; say how many it would be")
        drop.add_argument("--yes", action="store_true", help="do not ask; without a terminal this is needed")
        _choosing(export := _action(actions, "export-ids", "Write their ids, one a line, the oldest first."))
        export.add_argument("--out", type=Path, metavar="FILE", help="write here (default: standard output)")

    def handle(self, **options: Any) -> None:
        try:
            getattr(self, "do_" + options["action"].replace("-", "_"))(options)
        except redis.RedisError as error:
            raise CommandError(
                f"the queue's Redis does not do it: {error}. Is it running, and does REDIS_URL name it? "
                "What was done before stays done; run the same command again for the rest."
            ) from None

    # -- looking

    def do_list(self, options: dict[str, Any]) -> None:
        found = dead_letters.newest(_chosen(options), options["limit"] or None)
        if options["json"]:
            self.stdout.write(json.dumps([_as_dict(letter) for letter in found], indent=1))
            return
        for letter in found:
            reason = explain(letter.code)
            self.stdout.write(f"{letter.id}  {_when(letter)}  {letter.code}  {letter.size:,} bytes")
            self.stdout.write(f"    {reason.words} {reason.remedy}")
        self.stdout.write(f"{len(found):,} listed, the newest first; {dead_letters.count():,} dead letters in all.")

    def do_show(self, options: dict[str, Any]) -> None:
        found = list(dead_letters.find(options["ids"]))
        if options["json"]:
            self.stdout.write(json.dumps([{**_as_dict(one), **_header(one.id)} for one in found], indent=1))
        else:
            for letter in found:
                for name, value in {**_as_dict(letter), **_header(letter.id)}.items():
                    self.stdout.write(f"{name + ':':20} {value}")
                self.stdout.write("")
        self._say_missing(options["ids"], [letter.id for letter in found])

    def do_export_ids(self, options: dict[str, Any]) -> None:
        found = dead_letters.oldest(_chosen(options), options["limit"] or None)
        lines = "".join(f"{letter.id}\n" for letter in found)
        if options["out"] is None:
            self.stdout.write(lines, ending="")
        else:
            _write(options["out"], lines)
            self.stderr.write(f"{len(found):,} ids are in {options['out']}.")

    # -- changing

    def do_requeue(self, options: dict[str, Any]) -> None:
        ids = self._ids(options)
        if options["dry_run"]:
            self.stdout.write(f"{len(ids):,} dead letters would be requeued. Nothing was changed.")
            return
        moved, refused = 0, {}
        try:
            with _bar(len(ids), "Requeueing") as bar:
                for chunk in dead_letters.requeue(ids):
                    moved += len(chunk.moved)
                    refused.update(chunk.refused)
                    bar.update(len(chunk.moved) + len(chunk.gone) + len(chunk.refused))
        except QueueFull as error:
            raise CommandError(
                f"{moved:,} requeued, then {error}: let the worker catch up, then run the same command again.",
                returncode=PARTLY,
            ) from None
        self.stdout.write(f"{moved:,} dead letters requeued.")
        self._say_refused(refused)

    def do_drop(self, options: dict[str, Any]) -> None:
        ids = self._ids(options)
        if options["dry_run"]:
            self.stdout.write(f"{len(ids):,} dead letters would be dropped for ever. Nothing was changed.")
            return
        if ids and not options["yes"]:
            self._confirm(len(ids))
        dropped = 0
        numbers = dead_letters.drop(ids)
        with _bar(len(ids), "Dropping") as bar:
            for chunk in dead_letters.chunks(ids):
                # The last trace of them, so it comes first.
                self.stdout.write("".join(f"{name}\n" for name in chunk), ending="")
                self.stdout.flush()
                dropped += next(numbers)
                bar.update(len(chunk))
        self.stderr.write(f"{dropped:,} dead letters dropped for ever.")
        self._say_unaccounted([name for name in ids if not dead_letters.is_malformed(name)])

    def _say_unaccounted(self, ids: Sequence[str]) -> None:
        """Name the command that tells the ledger. Nothing is told here: this may be a node without it."""
        if not ids:
            return
        few = len(ids) <= _SHOWN_REFUSALS
        which = " ".join(f"--envelope {name}" for name in ids) if few else "--envelopes FILE"
        hint = "" if few else " (with the ids above in FILE, one a line)"
        self.stderr.write(
            "Their messages were accepted, and the balance sheet calls them unaccounted for until they are given up "
            f"where ingest runs{hint}:\n  manage.py reconcile --write-off {which}"
        )

    def _confirm(self, number: int) -> None:
        if not sys.stdin.isatty():
            raise CommandError(
                f"this would delete {number:,} dead letters for ever, and there is no terminal to ask at. "
                "Look with --dry-run, then add --yes. Nothing was changed."
            )
        self.stderr.write(f"This deletes {number:,} dead letters for ever. Type that number to go on: ", ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip().replace(",", "") != str(number):
            raise CommandError("that was not the number: nothing was changed")

    def _ids(self, options: dict[str, Any]) -> list[str]:
        chosen = dead_letters.oldest(_chosen(options), options["limit"] or None)
        self._say_missing(_named(options), [letter.id for letter in chosen] if not options["limit"] else None)
        return [letter.id for letter in chosen]

    def _say_missing(self, named: Sequence[str] | None, found: list[str] | None) -> None:
        if named is None or found is None:
            return
        missing = sorted(set(named) - set(found))
        if missing and not found:
            raise CommandError(
                f"there is no dead letter {_some(missing)}, or the filters leave it out: "
                "`manage.py dead_letters list` shows what there is"
            )
        if missing:
            self.stderr.write(f"Passed over, no such dead letter or left out by the filters: {_some(missing)}")

    def _say_refused(self, refused: dict[str, str]) -> None:
        if not refused:
            return
        shown = "".join(f"\n  {name}: {why}" for name, why in list(refused.items())[:_SHOWN_REFUSALS])
        raise CommandError(f"{len(refused):,} cannot be requeued and stay where they are:{shown}", returncode=PARTLY)


def _action(actions: Any, name: str, description: str) -> CommandParser:
    parser: CommandParser = actions.add_parser(
        name, help=description, description=description, **epilog("dead_letters", _EXAMPLES[name])
    )
    return parser


def _list(parser: CommandParser) -> None:
    _choosing(parser, limit=_LISTED)
    parser.add_argument("--json", action="store_true", help="a JSON list, for programs")


def _show(parser: CommandParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="as `list` shows it")
    parser.add_argument("--json", action="store_true", help="a JSON list, for programs")


def _choosing(parser: CommandParser, limit: int = 0) -> None:
    """Add the filters; without any, all letters are meant."""
    parser.add_argument("--code", action="append", metavar="CODE", help="only with this reason; repeatable")
    parser.add_argument("--since", metavar="DATE", help="only since then, e.g. 2026-11-24 or 2026-11-24T18:00 (UTC)")
    parser.add_argument("--until", metavar="DATE", help="only before then")
    parser.add_argument("--id", action="append", metavar="ID", help="only this one; repeatable")
    parser.add_argument("--ids", metavar="FILE", help="only those whose ids FILE has, one a line; - is standard input")
    parser.add_argument("--limit", type=_number, default=limit, metavar="N", help=_limit_help(limit))


def _limit_help(limit: int) -> str:
    return f"the newest N (default {limit}; 0: all)" if limit else "the oldest N only"


def _number(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _chosen(options: dict[str, Any]) -> Iterator[Letter]:
    """Yield the letters that the filters mean."""
    since = finding.moment(options["since"]).timestamp() if options["since"] else 0
    until = finding.moment(options["until"]).timestamp() if options["until"] else float("inf")
    named = _named(options)
    for letter in dead_letters.iterate() if named is None else dead_letters.find(named):
        if since <= letter.at < until and (not options["code"] or letter.code in options["code"]):
            yield letter


def _named(options: dict[str, Any]) -> list[str] | None:
    """Return the ids that were given one by one or in a file; None when none were. Raises CommandError."""
    if options["id"] is None and options["ids"] is None:
        return None
    if "read_ids" not in options:
        # Standard input can be read once only.
        options["read_ids"] = [*(options["id"] or []), *(id_files.read(options["ids"]) if options["ids"] else [])]
    named: list[str] = options["read_ids"]
    if not named:
        raise CommandError(f"{options['ids']} has no id in it: nothing was done")
    return named


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"the ids cannot be written: {error}") from None


def _as_dict(letter: Letter) -> dict[str, Any]:
    reason = explain(letter.code)
    return {
        "id": letter.id,
        "code": letter.code,
        "reason": reason.words,
        "remedy": reason.remedy,
        "at": _when(letter),
        "size": letter.size,
    }


def _header(letter_id: str) -> dict[str, Any]:
    """Describe the envelope's header as it stands there: nobody has verified it, and its content is sealed."""
    parsed = dead_letters.header(letter_id)
    if isinstance(parsed, str):
        return {"envelope": f"cannot be read: {parsed}"}
    return {
        "envelope_version": parsed.header[0],
        "sealing_key": parsed.key_id,
        "signer_fingerprint": parsed.signer.hex(),
        "envelope_bytes": len(parsed.header) + 2 + len(parsed.signature) + len(parsed.sealed),
    }


def _when(letter: Letter) -> str:
    try:
        return datetime.fromtimestamp(letter.at, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return "unknown time"


def _some(ids: Sequence[str]) -> str:
    more = len(ids) - _SHOWN_REFUSALS
    return ", ".join(ids[:_SHOWN_REFUSALS]) + (f" and {more:,} more" if more > 0 else "")


def _bar(length: int, label: str) -> Any:
    return click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty())
