import json
import logging
import re
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import redis
from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from certs_app.management.progress import Bar
from certs_app.management.teaching import TeachingCommand
from ingest import balance, dead_letters
from ingest.management import id_files
from ingest.reconciling import NoLedger, Result, Row, check_ledger, received_at, reconcile, write_off
from ingest.registry_client import RegistryError, registry

logger = logging.getLogger(__name__)

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_HEADING = ("hour (UTC)", "client", "accepted", "stored", "queued", "dead", "unaccounted")
# Names on a terminal; --json has all of them.
MAX_NAMED = 100
NOT_COMPARED = 2


class Command(TeachingCommand):
    help = (
        "Compare everything this ingest accepted with what is stored, queued and dead, at once, and name what is "
        "missing. Exit code 0: nothing is missing; 1: something is; 2: it could not be compared."
    )
    examples = (
        ("The last day", ""),
        ("Since a moment", "--since 2026-11-24T18:00:00Z"),
        ("The last two weeks, for a program", "--since 14d --json"),
        ("What is missing will not come back: stop the alarm", "--write-off"),
        ("These dead letters were dropped: raise none for them", "--write-off --envelopes dropped.txt"),
    )
    # It says itself what it lacks, with its own exit code.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--since", default="24h", metavar="TIME", help="90m, 24h, 14d, or a date and time (default: 24h)"
        )
        parser.add_argument("--json", action="store_true", help="a JSON object, for programs")
        parser.add_argument(
            "--write-off",
            action="store_true",
            help="compare nothing: what the running comparison calls unaccounted is given up and counts no more",
        )
        parser.add_argument(
            "--envelope", action="append", default=[], metavar="ID", help="give up only what was in it; repeatable"
        )
        parser.add_argument(
            "--envelopes", metavar="FILE", help="the same for the ids in FILE, one a line; - is standard input"
        )

    def handle(self, **options: Any) -> None:
        now = datetime.now(UTC)
        since = _moment(options["since"], now)
        bar = Bar()
        try:
            check_ledger(settings.LEDGER_DIR)
            if envelopes := _envelopes(options):
                self._write_off_envelopes(envelopes)
                return
            if options["write_off"]:
                self._write_off()
                return
            result = reconcile(settings.LEDGER_DIR, registry(), since, lambda doing, done: bar.show(done, doing))
        except NoLedger as error:
            raise CommandError(str(error), returncode=NOT_COMPARED) from None
        except (RegistryError, redis.RedisError, OSError, sqlite3.Error) as error:
            reason = f"{type(error).__name__}: {error}"
            raise CommandError(f"It cannot be compared now. {reason}", returncode=NOT_COMPARED) from None
        finally:
            bar.clear()
        if options["json"]:
            self.stdout.write(json.dumps(_document(result, since, now), indent=1))
        else:
            self._tell(result, since, now)
        if result.unaccounted:
            sys.exit(1)

    def _tell(self, result: Result, since: datetime, now: datetime) -> None:
        self.stdout.write(f"Accepted from {since:%Y-%m-%d %H:%M} to {now:%Y-%m-%d %H:%M} UTC:")
        width = max([len("client"), *(len(row.client) for row in result.rows)])
        for cells in [_HEADING, *map(_cells, result.rows)] if result.rows else []:
            hour, client, *numbers = cells
            self.stdout.write(f"{hour:16}  {client:{width}}" + "".join(f"{number:>13}" for number in numbers))
        if not result.unaccounted:
            self.stdout.write("Nothing is missing.")
            return
        self.stdout.write(f"{result.unaccounted} unaccounted for (docs/balance.md says what to do):")
        named = result.missing[:MAX_NAMED]
        for one in named:
            self.stdout.write(f"{one.id}  {received_at(one):%Y-%m-%d %H:%M:%S}  {one.client}")
        if result.unaccounted > len(named):
            self.stdout.write(f"and {result.unaccounted - len(named)} more")

    def _write_off(self) -> None:
        with closing(balance.books()) as books:
            named = [str(one.id) for one in books.missing(most=MAX_NAMED)]
            number = books.write_off()
        logger.warning("unaccounted messages were given up", extra={"count": number, "messages": " ".join(named)})
        self.stdout.write(f"{number} given up. The alarm ends with the next comparison.")

    def _write_off_envelopes(self, envelopes: set[UUID]) -> None:
        names = sorted(map(str, envelopes))
        if kept := [letter.id for letter in dead_letters.find(names)]:
            raise CommandError(f"{kept[0]} is a dead letter still: drop it first. Nothing was given up.")
        with closing(balance.books()) as books:
            number, unknown = write_off(books, envelopes)
        named = " ".join(names[:MAX_NAMED])
        logger.warning("messages of dropped envelopes were given up", extra={"count": number, "envelopes": named})
        self.stdout.write(f"{number} messages given up.")
        if unknown:
            self.stderr.write(
                f"{len(unknown)} envelopes are not in this ledger, such as {min(unknown)}: "
                "another ingest accepted them, if any. Run the same command there."
            )


def _envelopes(options: dict[str, Any]) -> set[UUID]:
    """Return the ids of the envelopes that are meant. Raises CommandError."""
    given = [*options["envelope"], *(id_files.read(options["envelopes"]) if options["envelopes"] else [])]
    if given and not options["write_off"]:
        raise CommandError("envelopes go with --write-off", returncode=NOT_COMPARED)
    if options["envelopes"] and not given:
        raise CommandError(f"{options['envelopes']} has no id in it: nothing was done", returncode=NOT_COMPARED)
    # What was no message of ours was accepted by nobody.
    named = [one for one in given if not dead_letters.is_malformed(one)]
    try:
        return {UUID(one) for one in named}
    except ValueError:
        raise CommandError(
            "an envelope's id is a UUID, as `dead_letters drop` names it", returncode=NOT_COMPARED
        ) from None


def _cells(row: Row) -> tuple[str, ...]:
    return tuple(str(value) for value in row.as_dict().values())


def _document(result: Result, since: datetime, now: datetime) -> dict[str, object]:
    return {
        "since": since.isoformat(),
        "until": now.isoformat(),
        "unaccounted": result.unaccounted,
        "rows": [row.as_dict() for row in result.rows],
        "missing": [
            {"id": str(one.id), "client": one.client, "received_at": received_at(one).isoformat()}
            for one in result.missing
        ],
    }


def _moment(text: str, now: datetime) -> datetime:
    """Read 90m, 24h, 14d, or a date with or without a time; without a zone it is UTC. Raises CommandError."""
    try:
        if length := re.fullmatch(r"([0-9]{1,6})([mhd])", text):
            return now - timedelta(**{_UNITS[length[2]]: int(length[1])})
        read = datetime.fromisoformat(text)
        return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        detail = f"--since {text!r} is no time: write 90m, 24h, 14d, or 2026-11-24T18:00:00Z"
        raise CommandError(detail, returncode=NOT_COMPARED) from None
