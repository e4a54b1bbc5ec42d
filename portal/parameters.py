"""Read a search as a caller of the API writes it; every mistake is named."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from django.utils.dateparse import parse_datetime

from portal import cursors
from portal.cursors import CursorError, Position
from portal.queries import MessageQuery
from portal.wording import Wording, WordingError
from registry import senders
from registry.senders import NumberError
from registry.steps import PROGRESS
from wire.problems import FieldError, Problem

MAX_LIMIT = 200
MAX_CLIENT_CHARACTERS = 64


class _BadValueError(Exception):
    """One value breaks its rule: (code, detail)."""


def read(given: Mapping[str, Any], fields: Sequence[str]) -> MessageQuery:
    """Build the query from the named fields; null is as good as absent. Raises Problem."""
    values: dict[str, Any] = {}
    errors: list[FieldError] = []
    for name, value in given.items():
        try:
            if name not in fields:
                raise _BadValueError("unknown_field", f"there is no such field here; fields are {', '.join(fields)}")
            values[name] = _READERS[name](value) if value is not None else None
        except _BadValueError as refused:
            errors.append(FieldError(_printable(name), *refused.args))
    if errors:
        raise Problem("invalid_request", "The search breaks the rules listed in errors.", errors)
    return MessageQuery(**{name: value for name, value in values.items() if value is not None})


def _printable(name: str) -> str:
    return name.encode(errors="replace").decode()[:64]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _BadValueError("not_a_string", "this field is a string")
    return value


def _sender(value: Any) -> str:
    try:
        return senders.normalise(_text(value))
    except NumberError as error:
        raise _BadValueError("not_a_number", str(error)) from None


def _last4(value: Any) -> str:
    try:
        return senders.normalise_end(_text(value))
    except NumberError as error:
        raise _BadValueError("not_four_digits", str(error)) from None


def _prefix(value: Any) -> str:
    try:
        return senders.normalise_start(_text(value))
    except NumberError as error:
        raise _BadValueError("not_a_prefix", str(error)) from None


def _words(value: Any) -> Wording:
    try:
        return Wording.of(_text(value))
    except WordingError as error:
        raise _BadValueError("bad_words", str(error)) from None


def _status(value: Any) -> str:
    if _text(value) not in PROGRESS:
        raise _BadValueError("unknown_status", f"a status is one of {', '.join(PROGRESS)}")
    return str(value)


def _client(value: Any) -> str:
    text = _text(value)
    if not 1 <= len(text) <= MAX_CLIENT_CHARACTERS or not text.isprintable():
        raise _BadValueError("bad_client", f"a client's name has 1 to {MAX_CLIENT_CHARACTERS} printable characters")
    return text


def _moment(value: Any) -> datetime:
    try:
        moment = parse_datetime(_text(value))
        if moment is not None and moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass  # told below, like a text that is no time at all
    raise _BadValueError("not_rfc3339", "write the time as RFC 3339 with its offset, e.g. 2026-01-31T12:00:00Z")


def _limit(value: Any) -> int:
    # In a URL everything is text; in JSON, true is an int to Python.
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_LIMIT:
        raise _BadValueError("bad_limit", f"limit is a whole number from 1 to {MAX_LIMIT}")
    return value


def _cursor(value: Any) -> Position:
    try:
        return cursors.read(_text(value))
    except CursorError:
        raise _BadValueError(
            "bad_cursor", "give back the `next` of the page before, unchanged, or leave it out"
        ) from None


_READERS: dict[str, Callable[[Any], Any]] = {
    "status": _status,
    "client": _client,
    "received_from": _moment,
    "received_to": _moment,
    "limit": _limit,
    "cursor": _cursor,
    "sender": _sender,
    "last4": _last4,
    "prefix": _prefix,
    "words": _words,
}
# Personal data: in a body, never in a URL.
_PERSONAL = ("sender", "last4", "prefix", "words")

LIST_FIELDS = tuple(name for name in _READERS if name not in _PERSONAL)
SEARCH_FIELDS = tuple(_READERS)
