#!/usr/bin/env python
"""Run a management command: as the operator, or, for `serve ROLE`, as that role."""

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import FileLock

# Each served role runs under its own settings, so that it cannot even name what it must not hold.
SETTINGS_OF_ROLE = {
    "ingest": "ingest",
    "worker": "worker",
    "registry": "registry",
    "jobs": "registry",
    "portal": "portal",
}
# What ingest itself knows and may do: its ledger, its certificate, Redis.
SETTINGS_OF_COMMAND = {"reconcile": "ingest"}


def place(arguments: list[str]) -> None:
    """Take over `up`'s --home and --port-offset: settings are read once, so these must be in the environment before."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--home")
    parser.add_argument("--port-offset")
    given, _ = parser.parse_known_args(arguments)
    if given.home:
        os.environ["MSGSYS_HOME"] = os.path.abspath(given.home)  # noqa: PTH100  no resolving of links
    if given.port_offset:
        os.environ["MSGSYS_PORT_OFFSET"] = given.port_offset


def make_home(*, for_up: bool) -> "FileLock | None":
    """Make the home; for `up`, return its lock and make the secrets that settings read, before they are read."""
    from deploy import home_lock, secret_files
    from msgsys_project.settings.base import HOME, SECRETS_DIR

    try:
        HOME.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not for_up:
            return None
        # The lock first: of two first starts at once, only one makes the secrets.
        lock = home_lock.take(HOME)
        secret_files.make_missing(SECRETS_DIR)
        return lock
    except home_lock.AlreadyRunning as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"The home {HOME} cannot be used: {error}")


def run(arguments: list[str]) -> None:
    from django.core.management import execute_from_command_line

    lock = None
    if arguments[1:2] in (["up"], ["migrate"]) and not {"-h", "--help"} & set(arguments):
        for_up = arguments[1] == "up"
        if for_up:
            place(arguments[2:])
        lock = make_home(for_up=for_up)
    try:
        execute_from_command_line(arguments)
    finally:
        if lock is not None:
            lock.release()


def settings_for(arguments: list[str]) -> str:
    """Return the name of the settings to run under."""
    if arguments[1:2] == ["serve"] and len(arguments) > 2 and arguments[2] in SETTINGS_OF_ROLE:
        os.environ["MSGSYS_ROLE"] = arguments[2]
        # Whoever started this process, `up` among them, has settings of its own in the environment.
        os.environ.pop("DJANGO_SETTINGS_MODULE", None)
        return SETTINGS_OF_ROLE[arguments[2]]
    return SETTINGS_OF_COMMAND.get(arguments[1], "operator") if len(arguments) > 1 else "operator"


def main(arguments: list[str]) -> None:
    settings = settings_for(arguments)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", f"msgsys_project.settings.{settings}")
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.db import DatabaseError
    except ImportError:
        sys.exit("Django is not installed here. Run `make up` once, or activate the .venv it makes.")
    try:
        run(arguments)
    except ImproperlyConfigured as error:
        if "--traceback" in arguments:
            raise
        sys.exit(f"A setting cannot be used: {error}")
    except DatabaseError as error:
        # A served role's log keeps the traceback: there, no person waits for an answer.
        if settings != "operator" or "--traceback" in arguments:
            raise
        sys.exit(f"The database cannot be used: {error}. If it has no tables yet, run: manage.py migrate")


if __name__ == "__main__":
    main(sys.argv)
