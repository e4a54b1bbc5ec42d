"""Ask for a password: of a person, or in a file. Never on the command line, where every process can read it."""

import sys
from getpass import getpass
from pathlib import Path

from django.core.management.base import CommandError


def secret(file: Path | None, prompt: str) -> str:
    """Return the first line of a file, or ask twice at the terminal. Raises CommandError."""
    try:
        text = file.read_text(encoding="utf-8") if file else _ask(prompt)
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the password file cannot be read: {error}") from None
    line = text.partition("\n")[0].rstrip("\r")
    if not line:
        raise CommandError("the password is empty: nothing was made")
    return line


def _ask(prompt: str) -> str:
    if not sys.stdin.isatty():
        raise CommandError("there is no terminal to ask at: put the password into a file and give --password-file FILE")
    password = getpass(f"{prompt}: ")
    if getpass(f"{prompt} (again): ") != password:
        raise CommandError("the two passwords differ: nothing was made")
    return password
