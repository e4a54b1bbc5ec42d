"""A JSON file with a number for each of some clients, such as {"alice": 600}."""

import json
from pathlib import Path
from typing import Any

from certs_app.identity import NAME_PATTERN


class BadNumbers(Exception):
    """The file cannot be used. The message says why."""


def read(file: Path, *, what: str, most: int) -> dict[str, int]:
    """Read {client name: number from 0 to `most`}; `what` says what the numbers are. Raises BadNumbers."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise BadNumbers(f"{file} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise BadNumbers(f'{file} must hold one JSON object such as {{"alice": 600}}')
    for client, number in found.items():
        if not NAME_PATTERN.fullmatch(client):
            raise BadNumbers(f"{file}: {client!r} is not the name of a client")
        if type(number) is not int or not 0 <= number <= most:
            raise BadNumbers(f"{file}: the {what} of {client} must be a whole number from 0 to {most}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found
