import sys
from getpass import getpass
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.accounts import create_staff


class Command(BaseCommand):
    help = "Make a portal user. The password is asked for, or read from a file or a pipe: never an argument."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="user name; an e-mail address is fine")
        parser.add_argument("--admin", action="store_true", help="may manage users too")
        parser.add_argument("--password-file", type=Path, metavar="FILE", help="file whose first line is the password")

    def handle(self, **options: Any) -> None:
        password = _read(options["password_file"]) if options["password_file"] else _ask()
        try:
            user = create_staff(options["name"], password, admin=options["admin"])
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        self.stdout.write(f"Made {'the administrator' if user.is_superuser else 'the staff user'} {user.username}")


def _read(file: Path) -> str:
    try:
        return _first_line(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the password file cannot be read: {error}") from None


def _ask() -> str:
    if not sys.stdin.isatty():
        return _first_line(sys.stdin.readline())
    password = getpass("Password: ")
    if getpass("Password (again): ") != password:
        raise CommandError("The two passwords differ. Nothing was made.")
    return password


def _first_line(text: str) -> str:
    line = text.partition("\n")[0].rstrip("\r")
    if not line:
        raise CommandError("The password is empty. Nothing was made.")
    return line
