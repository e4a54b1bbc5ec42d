"""Read ids from a file, as several commands are given them."""

import sys
from pathlib import Path

from django.core.management.base import CommandError


def read(file: str) -> list[str]:
    """Return the ids, one a line; - is standard input. Raises CommandError."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the ids cannot be read: {error}") from None
    return text.split()
