"""What a valid message is: the one set of rules, for every door a message can come in by."""

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import phonenumbers

from wire.problems import FieldError

MAX_BODY_CHARACTERS = 10_000
MAX_REFERENCE_CHARACTERS = 128

_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
# An answer must not grow with the nonsense in a request.
_MAX_UNKNOWN_NAMED = 10
_FIELDS = ("sender_number", "message_body", "client_reference", "sent_at")


@dataclass(frozen=True)
class Submission:
    """A message that keeps the rules. `sender_number` is E.164, `sent_at` UTC."""

    sender_number: str
    message_body: str
    client_reference: str | None = None
    sent_at: datetime | None = None


@dataclass(frozen=True)
class Invalid:
    """A message that breaks the rules: one error per field."""

    errors: tuple[FieldError, ...]


def check(value: Any) -> Submission | Invalid:
    """Judge one decoded JSON value. Never raises."""
    if not isinstance(value, Mapping):
        return Invalid((FieldError("", "not_an_object", "a message is a JSON object"),))
    errors = tuple(_errors(value))
    if errors:
        return Invalid(errors)
    sent_at = value.get("sent_at")
    return Submission(
        sender_number=value["sender_number"],
        message_body=value["message_body"],
        client_reference=value.get("client_reference"),
        sent_at=_parse_time(sent_at) if sent_at is not None else None,
    )


def _errors(value: Mapping[str, Any]) -> Iterator[FieldError]:
    unknown = (name for name in value if name not in _FIELDS)
    for name in itertools.islice(unknown, _MAX_UNKNOWN_NAMED):
        yield FieldError(str(name)[:64], "unknown_field", f"there is no such field; fields are {', '.join(_FIELDS)}")
    yield from _sender_number(value.get("sender_number", _MISSING))
    yield from _message_body(value.get("message_body", _MISSING))
    yield from _client_reference(value.get("client_reference"))
    yield from _sent_at(value.get("sent_at"))


_MISSING = object()


def _text(field: str, value: Any) -> FieldError | None:
    if value is _MISSING:
        return FieldError(field, "required", "this field is required")
    if not isinstance(value, str):
        return FieldError(field, "not_a_string", "this field is a string")
    if "\0" in value:
        return FieldError(field, "nul_character", "NUL characters cannot be stored")
    try:
        value.encode()
    except UnicodeEncodeError:
        return FieldError(field, "invalid_unicode", "a lone surrogate is not a character")
    return None


def _sender_number(value: Any) -> Iterator[FieldError]:
    error = _text("sender_number", value)
    if error:
        yield error
    elif not _E164.fullmatch(value):
        yield FieldError("sender_number", "not_e164", "write the number as + and 7 to 15 digits, e.g. +4915200000000")
    elif not is_valid_number(value):
        yield FieldError("sender_number", "no_such_number", "no country's numbering plan has such a number")


@functools.lru_cache(maxsize=4096)
def is_valid_number(number: str) -> bool:
    """Tell whether this is the E.164 form of a number that its country's numbering plan has (libphonenumber).

    "+4901512…" is read as a valid number, but its form is another one: stored as it came, nobody would find it.
    """
    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        return False
    e164 = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    return e164 == number and phonenumbers.is_valid_number(parsed)


def _message_body(value: Any) -> Iterator[FieldError]:
    error = _text("message_body", value)
    if error:
        yield error
    elif not value:
        yield FieldError("message_body", "empty", "a message has at least one character")
    elif len(value) > MAX_BODY_CHARACTERS:
        yield FieldError("message_body", "too_long", f"a message has at most {MAX_BODY_CHARACTERS} characters")


def _client_reference(value: Any) -> Iterator[FieldError]:
    if value is None:
        return
    error = _text("client_reference", value)
    if error:
        yield error
    elif not 1 <= len(value) <= MAX_REFERENCE_CHARACTERS:
        detail = f"a reference has 1 to {MAX_REFERENCE_CHARACTERS} characters"
        yield FieldError("client_reference", "bad_length", detail)


def _sent_at(value: Any) -> Iterator[FieldError]:
    if value is None:
        return
    if not isinstance(value, str) or _parse_time(value) is None:
        detail = "write the time as RFC 3339 with its offset, e.g. 2026-01-31T12:00:00Z"
        yield FieldError("sent_at", "not_rfc3339", detail)


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _parse_time(text: str) -> datetime | None:
    if not _RFC3339.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
