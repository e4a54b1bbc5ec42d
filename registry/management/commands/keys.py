"""manage.py keys: the data keys, their states, and the steps from one to the next."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from certs_app.audit import Actor
from certs_app.management.teaching import TeachingCommand, epilog
from registry import canaries, keyring, resealing
from registry.key_document import DESTROYED, ENCRYPTION, INDEX, KINDS, Key, KeyDocument, KeyRingError, StepRefused, iso
from registry.key_steps import Keys, StillNeeded
from registry.management.bars import bar
from registry.models import Message
from registry.search.models import Run

# Exit codes besides 0 (done), 1 (it could not be done) and 2 (the arguments are wrong).
NEEDED = 3

_EXAMPLES = {
    "init": (("Make the key file of a new installation", "init"),),
    "add": (("Begin a rotation: a new key, which seals nothing yet", "add encryption"),),
    "promote": (("Have it seal what is new, once every machine has the file", "promote encryption 2"),),
    "retire": (
        ("Does any row still need the old key?", "retire encryption 1 --dry-run"),
        ("Have it open nothing any more", "retire encryption 1"),
    ),
    "reactivate": (("Take that back", "reactivate encryption 1"),),
    "destroy": (("Forget a retired key's bytes for ever", "destroy encryption 1"),),
    "status": (
        ("Every key and its state", "status"),
        ("How many values each key sealed as well, for a program", "status --count --json"),
    ),
    "check": (("Is this the key ring that the data was written with?", "check"),),
}


class Command(TeachingCommand):
    help = (
        "Look at the data keys and take them through their states: staged, primary, active, retired, destroyed. "
        "Exit codes: 0 done, 1 it could not be done, 2 wrong arguments, 3 refused because data still needs the key."
    )
    # These keys are what the checks would complain about.
    requires_system_checks: list[str] = []
    examples = tuple(one for examples in _EXAMPLES.values() for one in examples)

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        _action(actions, "init", "Make a key file with a fresh key of each kind.")
        add = _action(actions, "add", "Add a fresh staged key: it opens, and seals nothing yet.")
        add.add_argument("kind", choices=KINDS)
        _choosing(_action(actions, "promote", "Have a key seal what is new. The one that did only opens from now on."))
        retire = _action(actions, "retire", "Have a key open nothing any more. Refused while any row needs it.")
        _choosing(_action(actions, "reactivate", "Take a retirement back: the key opens again."))
        destroy = _action(actions, "destroy", "Forget a retired key's bytes for ever.")
        for ending in (retire, destroy):
            _choosing(ending)
            ending.add_argument("--dry-run", action="store_true", help="change nothing; say whether it would be done")
        destroy.add_argument("--yes", action="store_true", help="do not ask; without a terminal this is needed")
        status = _action(actions, "status", "List the keys.")
        status.add_argument("--count", action="store_true", help="count what each key sealed: reads all of the data")
        for looking in (status, _action(actions, "check", "Compare the keys with the data. Exit code 1: they differ.")):
            looking.add_argument("--json", action="store_true", help="JSON, for programs")

    def handle(self, **options: Any) -> None:
        try:
            getattr(self, "do_" + options["action"])(options)
        except StillNeeded as error:
            raise CommandError(str(error), returncode=NEEDED) from None
        except (StepRefused, KeyRingError, FileExistsError) as error:
            raise CommandError(str(error)) from None

    # -- looking

    def do_status(self, options: dict[str, Any]) -> None:
        document = keyring.document()
        used = _used() if options["count"] else None
        rows = [_as_dict(kind, key_id, key, used) for kind, key_id, key in _all(document)]
        if options["json"]:
            self.stdout.write(json.dumps(rows, indent=1))
            return
        for row in rows:
            needs = "" if row.get("used") is None else f"  {row['used']:,} {_UNITS[row['kind']]}"
            when = f"created {row['created'] or 'unknown'}, {row['state']} since {row['changed'] or 'unknown'}"
            self.stdout.write(f"{row['kind']:10} {row['id']:>4}  {row['state']:9}  {when}{needs}")

    def do_check(self, options: dict[str, Any]) -> None:
        document = keyring.document()
        wrong = [
            *(f"{kind} key {key_id} is not the data's" for kind, key_id in canaries.misfits(document)),
            *(f"{kind} key {key_id} is missing" for kind, key_id in canaries.missing(document)),
        ]
        if options["json"]:
            self.stdout.write(json.dumps({"source": _source(), "problems": wrong}, indent=1))
        if wrong:
            raise CommandError(f"{_source()}: {'; '.join(wrong)}. Restore the one that belongs to this database.")
        if not options["json"]:
            known = canaries.Canary.objects.count()
            self.stdout.write(f"{_source()} can be used, and its keys fit the data ({known} compared).")

    # -- changing

    def do_init(self, options: dict[str, Any]) -> None:
        _keys().init()
        self.stdout.write(f"Made {settings.KEY_FILE}. Back it up apart from the database: without it, nothing opens.")

    def do_add(self, options: dict[str, Any]) -> None:
        key_id = _keys().add(options["kind"])
        self.stdout.write(
            f"Added {options['kind']} key {key_id}, staged. Back up {settings.KEY_FILE}, bring it to every machine, "
            f"then: manage.py keys promote {options['kind']} {key_id}"
        )

    def do_promote(self, options: dict[str, Any]) -> None:
        kind, key_id = options["kind"], options["id"]
        _keys().promote(kind, key_id)
        then = "reseal" if kind == ENCRYPTION else "reindex"
        self.stdout.write(f"{kind} key {key_id} is primary. Back up {settings.KEY_FILE}, then: manage.py {then}")

    def do_retire(self, options: dict[str, Any]) -> None:
        kind, key_id = options["kind"], options["id"]
        if options["dry_run"]:
            with _looking(kind) as looked:
                _keys(looked).check_can_retire(kind, key_id)
            self.stdout.write(f"No row needs {kind} key {key_id}: it would be retired. Nothing was changed.")
            return
        with _looking(kind) as looked:
            _keys(looked).retire(kind, key_id)
        self.stdout.write(f"{kind} key {key_id} is retired: it opens nothing, its bytes are kept.")

    def do_reactivate(self, options: dict[str, Any]) -> None:
        _keys().reactivate(options["kind"], options["id"])
        self.stdout.write(f"{options['kind']} key {options['id']} is active: it opens again.")

    def do_destroy(self, options: dict[str, Any]) -> None:
        kind, key_id = options["kind"], options["id"]
        if options["dry_run"]:
            with _looking(kind) as looked:
                _keys(looked).check_can_destroy(kind, key_id)
            self.stdout.write(f"No row needs {kind} key {key_id}: it would be destroyed. Nothing was changed.")
            return
        if not options["yes"]:
            self._confirm(kind, key_id)
        with _looking(kind) as looked:
            _keys(looked).destroy(kind, key_id)
        self.stdout.write(
            f"{kind} key {key_id} is destroyed. Backups of the database from its time open with a backup of it only."
        )

    def _confirm(self, kind: str, key_id: int) -> None:
        name = f"{kind} {key_id}"
        if not sys.stdin.isatty():
            raise CommandError(
                f"this would destroy {name} for ever, and there is no terminal to ask at. Look with --dry-run, then "
                "add --yes. Nothing was changed."
            )
        self.stderr.write(f"This destroys a key for ever. Type {name!r} to go on: ", ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip() != name:
            raise CommandError("that was not it: nothing was changed")


_UNITS = {ENCRYPTION: "values", INDEX: "search runs"}


def _action(actions: Any, name: str, description: str) -> CommandParser:
    parser: CommandParser = actions.add_parser(
        name, help=description, description=description, **epilog("keys", _EXAMPLES[name])
    )
    return parser


def _choosing(parser: CommandParser) -> None:
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("id", type=int, metavar="ID", help="as `status` shows it")


def _keys(looked: Callable[[int], None] = lambda last_id: None) -> Keys:
    return Keys(Actor.operator(), timezone.now(), looked)


def _looking(kind: str) -> Any:
    """Return a bar for a look through all messages: whether an index key is needed is seen by opening each."""
    newest = Message.objects.order_by("-id").values_list("id", flat=True).first() if kind == INDEX else 0
    return bar("Looking", newest or 0)


def _all(document: KeyDocument) -> list[tuple[str, int, Key]]:
    return [(kind, key_id, key) for kind in KINDS for key_id, key in sorted(document.of(kind).items())]


def _used() -> dict[str, Counter[int]]:
    runs = Counter(Run.objects.values_list("key_id", flat=True).iterator())
    return {ENCRYPTION: resealing.count_by_key(), INDEX: runs}


def _as_dict(kind: str, key_id: int, key: Key, used: dict[str, Counter[int]] | None) -> dict[str, Any]:
    counted = None if used is None or key.state == DESTROYED else used[kind][key_id]
    return {
        "kind": kind,
        "id": key_id,
        "state": key.state,
        "created": iso(key.created),
        "changed": iso(key.changed),
        **({} if used is None else {"used": counted}),
    }


def _source() -> str:
    return str(settings.KEY_COMMAND[0] if settings.KEY_COMMAND else settings.KEY_FILE)
