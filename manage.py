#!/usr/bin/env python
"""Run a management command: as the operator, or, for `serve ROLE`, as that role."""

import os
import sys

# Each served role runs under its own settings, so that it cannot even name what it must not hold.
SETTINGS_OF_ROLE = {"ingest": "ingest", "worker": "worker", "registry": "registry", "jobs": "registry", "portal": "portal"}


def main(arguments: list[str]) -> None:
    settings = "operator"
    if arguments[1:2] == ["serve"] and len(arguments) > 2 and arguments[2] in SETTINGS_OF_ROLE:
        os.environ["MSGSYS_ROLE"] = arguments[2]
        settings = SETTINGS_OF_ROLE[arguments[2]]
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", f"msgsys_project.settings.{settings}")
    try:
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit("Django is not installed here. Run `make up` once, or activate the .venv it makes.")
    execute_from_command_line(arguments)


if __name__ == "__main__":
    main(sys.argv)
