#!/usr/bin/env python
"""Run a management command: as the operator, or, for `serve ROLE`, as that role."""

import argparse
import os
import sys

# Each served role runs under its own settings, so that it cannot even name what it must not hold.
SETTINGS_OF_ROLE = {
    "ingest": "ingest",
    "worker": "worker",
    "registry": "registry",
    "jobs": "registry",
    "portal": "portal",
}


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


def first_secrets() -> None:
    """Make the secrets that settings read, before they are read."""
    from deploy.secret_files import make_missing
    from msgsys_project.settings.base import SECRETS_DIR

    make_missing(SECRETS_DIR)


def main(arguments: list[str]) -> None:
    settings = "operator"
    if arguments[1:2] == ["up"]:
        place(arguments[2:])
        first_secrets()
    if arguments[1:2] == ["serve"] and len(arguments) > 2 and arguments[2] in SETTINGS_OF_ROLE:
        os.environ["MSGSYS_ROLE"] = arguments[2]
        settings = SETTINGS_OF_ROLE[arguments[2]]
        # Whoever started this process, `up` among them, has settings of its own in the environment.
        os.environ.pop("DJANGO_SETTINGS_MODULE", None)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", f"msgsys_project.settings.{settings}")
    try:
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit("Django is not installed here. Run `make up` once, or activate the .venv it makes.")
    execute_from_command_line(arguments)


if __name__ == "__main__":
    main(sys.argv)
