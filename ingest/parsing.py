"""From an HTTP body to submissions: the same rules for the accept path and for the DRF view."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from wire import rules
from wire.problems import Problem

JSON = "application/json"
NDJSON = ("application/x-ndjson", "application/ndjson")
MAX_BATCH = 1000
MAX_KEY_CHARACTERS = 255

Checked = rules.Submission | rules.Invalid


@dataclass(frozen=True)
class Parsed:
    """What a request asks for. `key` is the SHA-256 of client and Idempotency-Key, `fingerprint` of the request."""

    checked: Sequence[Checked]
    key: bytes | None
    fingerprint: bytes

    @property
    def good(self) -> list[rules.Submission]:
        return [one for one in self.checked if isinstance(one, rules.Submission)]


def parse_single(content_type: str, body: bytes, client: str, key: str | None) -> Parsed:
    """Parse POST /submit. Raises Problem."""
    _media_type(content_type, (JSON,))
    checked = rules.check(_decode(body))
    if isinstance(checked, rules.Invalid):
        raise Problem("invalid_message", "The message breaks the rules listed in errors.", checked.errors)
    return Parsed([checked], _key(client, key), _fingerprint(b"single", body))


def parse_batch(content_type: str, body: bytes, client: str, key: str | None) -> Parsed:
    """Parse POST /submit/batch: good messages and bad ones, in order. Raises Problem."""
    kind = _media_type(content_type, (JSON, *NDJSON))
    values = _lines(body) if kind in NDJSON else _listed(_decode(body))
    if not 1 <= len(values) <= MAX_BATCH:
        raise Problem("invalid_request", f"A batch has 1 to {MAX_BATCH} messages, not {len(values)}.")
    return Parsed([rules.check(value) for value in values], _key(client, key), _fingerprint(b"batch", body))


def _media_type(content_type: str, allowed: Sequence[str]) -> str:
    kind, _, parameters = content_type.partition(";")
    kind = kind.strip().lower()
    charset = parameters.strip().lower().replace('"', "")
    if kind not in allowed or charset not in ("", "charset=utf-8"):
        raise Problem("unsupported_media_type", f"Send {' or '.join(allowed)} in UTF-8, with that Content-Type.")
    return kind


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem("malformed_json", f"The body is not valid JSON: {_reason(error)}.") from None


def _reason(error: Exception) -> str:
    # Only the parser's own words: never a piece of the body, which may end in a log.
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error).split(":", 1)[0]


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, dict) or set(value) != {"messages"} or not isinstance(value["messages"], list):
        raise Problem("invalid_request", 'A batch is {"messages": [...]} and nothing else, or NDJSON.')
    return value["messages"]


def _lines(body: bytes) -> list[Any]:
    lines = [line for line in body.split(b"\n") if line.strip()]
    if len(lines) > MAX_BATCH:
        raise Problem("invalid_request", f"A batch has 1 to {MAX_BATCH} messages, not {len(lines)}.")
    return [_decode(line) for line in lines]


def _key(client: str, key: str | None) -> bytes | None:
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY_CHARACTERS or not key.isascii() or not key.isprintable():
        raise Problem(
            "malformed_request", f"An Idempotency-Key has 1 to {MAX_KEY_CHARACTERS} printable ASCII characters."
        )
    return hashlib.sha256(f"{client}\0{key}".encode()).digest()


def _fingerprint(kind: bytes, body: bytes) -> bytes:
    return hashlib.sha256(kind + b"\0" + body).digest()
