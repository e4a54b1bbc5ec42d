"""Requests that must be refused, each with its own clear error."""

import json
from typing import Any

from ingest.tests.conftest import Call

GOOD = {"sender_number": "+4915200000000", "message_body": "Hello"}


def but(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


# name -> (call, status, code, field or None, code of the field's error or None)
CASES: dict[str, tuple[Call, int, str, str | None, str | None]] = {
    "empty body": (Call(body=b""), 400, "malformed_json", None, None),
    "not JSON": (Call(body=b"sender_number=1"), 400, "malformed_json", None, None),
    "cut JSON": (Call(body=b'{"sender_number": "+49'), 400, "malformed_json", None, None),
    "not UTF-8": (Call(body=b'{"message_body": "\xff\xfe"}'), 400, "malformed_json", None, None),
    "NaN": (Call(body=b'{"sent_at": NaN}'), 400, "malformed_json", None, None),
    "too deep": (Call(body=b"[" * 100_000), 400, "malformed_json", None, None),
    "lone surrogate": (
        Call(body=json.dumps(but(message_body="\ud800")).encode()),
        400,
        "malformed_json",
        None,
        None,
    ),
    "a list": (Call(body=json.dumps([GOOD]).encode()), 422, "invalid_message", "", "not_an_object"),
    "a string": (Call(body=b'"hello"'), 422, "invalid_message", "", "not_an_object"),
    "null": (Call(body=b"null"), 422, "invalid_message", "", "not_an_object"),
    "no number": (Call(body=without("sender_number")), 422, "invalid_message", "sender_number", "required"),
    "no body": (Call(body=without("message_body")), 422, "invalid_message", "message_body", "required"),
    "number not text": (Call(body=but(sender_number=49152)), 422, "invalid_message", "sender_number", "not_a_string"),
    "number without plus": (
        Call(body=but(sender_number="015200000000")),
        422,
        "invalid_message",
        "sender_number",
        "not_e164",
    ),
    "number of letters": (Call(body=but(sender_number="+49ABC")), 422, "invalid_message", "sender_number", "not_e164"),
    "no such number": (
        Call(body=but(sender_number="+491234567")),
        422,
        "invalid_message",
        "sender_number",
        "no_such_number",
    ),
    "empty message": (Call(body=but(message_body="")), 422, "invalid_message", "message_body", "empty"),
    "message too long": (Call(body=but(message_body="x" * 10_001)), 422, "invalid_message", "message_body", "too_long"),
    "NUL in message": (Call(body=but(message_body="a\0b")), 422, "invalid_message", "message_body", "nul_character"),
    "message is null": (Call(body=but(message_body=None)), 422, "invalid_message", "message_body", "not_a_string"),
    "unknown field": (Call(body=but(priority=1)), 422, "invalid_message", "priority", "unknown_field"),
    "reference too long": (
        Call(body=but(client_reference="r" * 129)),
        422,
        "invalid_message",
        "client_reference",
        "bad_length",
    ),
    "time without offset": (
        Call(body=but(sent_at="2026-01-31T12:00:00")),
        422,
        "invalid_message",
        "sent_at",
        "not_rfc3339",
    ),
    "no media type": (Call(body=GOOD, content_type=None), 415, "unsupported_media_type", None, None),
    "a form": (
        Call(body=b"a=b", content_type="application/x-www-form-urlencoded"),
        415,
        "unsupported_media_type",
        None,
        None,
    ),
    "UTF-16": (
        Call(body=GOOD, content_type="application/json; charset=utf-16"),
        415,
        "unsupported_media_type",
        None,
        None,
    ),
    "empty key": (Call(body=GOOD, headers=(("Idempotency-Key", ""),)), 400, "malformed_request", None, None),
    "key too long": (Call(body=GOOD, headers=(("Idempotency-Key", "k" * 256),)), 400, "malformed_request", None, None),
    "batch is a list": (Call("/submit/batch", body=json.dumps([GOOD]).encode()), 422, "invalid_request", None, None),
    "empty batch": (Call("/submit/batch", body={"messages": []}), 422, "invalid_request", None, None),
    "batch too large": (Call("/submit/batch", body={"messages": [GOOD] * 1001}), 422, "invalid_request", None, None),
    "batch with more": (Call("/submit/batch", body={"messages": [GOOD], "x": 1}), 422, "invalid_request", None, None),
    "broken NDJSON": (
        Call("/submit/batch", body=b'{"a":1}\n{"b"', content_type="application/x-ndjson"),
        400,
        "malformed_json",
        None,
        None,
    ),
    "GET on submit": (Call(method="GET"), 405, "method_not_allowed", None, None),
    "PUT on submit": (Call(method="PUT", body=GOOD), 405, "method_not_allowed", None, None),
    "nowhere": (Call("/nowhere", body=GOOD), 404, "not_found", None, None),
}
