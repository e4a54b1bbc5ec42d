"""What is not a request gets a problem that says so, never a 500, and changes nothing."""

import json

import pytest

from registry.models import Message, StatusEvent
from registry.tests.conftest import BODY, SENDER, new_id
from wire.problems import CODES, MEDIA_TYPE

GOOD = {"sender_number": SENDER, "message_body": BODY}
UPDATE = {"id": str(new_id()), "status": "delivered"}


def raw(document):
    return json.dumps(document).encode()


NOT_JSON = {
    "no JSON": b"hello",
    "half of it": b'{"envelopes": [',
    "two documents": b"{}{}",
    "NaN": b'{"message_body": NaN}',
    "not UTF-8": b'{"message_body": "\xff"}',
    "UTF-16": '{"envelopes": []}'.encode("utf-16"),
    "a lone surrogate": b'{"message_body": "\\ud800"}',
    "nested without end": b"[" * 200_000,
    "nested objects without end": b'{"a":' * 200_000,
    "a number without end": b"9" * 10_000,
    "a number out of range": b'{"a": 1e999}',
    "a single zero byte": b"\0",
}
NO_REGISTRATION = {
    "null": raw(None),
    "a list": raw([]),
    "a string": raw("hello"),
    "a number": raw(5),
    "an empty object": raw({}),
    "an empty body": b"",
    "an unknown field": raw({**GOOD, "client": "alice"}),
    "ten thousand unknown fields": raw({f"field {number}": 1 for number in range(10_000)}),
    "an empty list": raw({"envelopes": []}),
    "too many envelopes": raw({"envelopes": [""] * 101}),
    "a huge list": raw({"envelopes": [""] * 100_000}),
    "envelopes as a string": raw({"envelopes": "AAAA"}),
    "envelopes as an object": raw({"envelopes": {"0": "AAAA"}}),
    "envelopes as null": raw({"envelopes": None}),
    "an envelope as a number": raw({"envelopes": [5]}),
    "an envelope as null": raw({"envelopes": [None]}),
    "an envelope as a list": raw({"envelopes": [["AAAA"]]}),
    "an envelope as an object": raw({"envelopes": [{}]}),
    "a field beside the envelopes": raw({"envelopes": ["AAAA"], "extra": 1}),
    "a message beside the envelopes": raw({"envelopes": ["AAAA"], **GOOD}),
    "no number": raw({"message_body": BODY}),
    "a number that is none": raw({**GOOD, "sender_number": "+1"}),
    "a number as a number": raw({**GOOD, "sender_number": 4915200000000}),
    "no body": raw({"sender_number": SENDER}),
    "a body as an object": raw({**GOOD, "message_body": {}}),
    "a body of nothing": raw({**GOOD, "message_body": ""}),
    "a body too long": raw({**GOOD, "message_body": "x" * 10_001}),
    "a body with NUL": raw({**GOOD, "message_body": "a\0b"}),
    "a reference too long": raw({**GOOD, "client_reference": "x" * 129}),
    "a time that is none": raw({**GOOD, "sent_at": "yesterday"}),
    "a time before the calendar": raw({**GOOD, "sent_at": "0001-01-01T00:00:00+14:00"}),
    "an id that is none": raw({**GOOD, "id": "x"}),
    "an id of another version": raw({**GOOD, "id": "00000000-0000-4000-8000-000000000000"}),
    "an id as a number": raw({**GOOD, "id": 5}),
    "an id as a list": raw({**GOOD, "id": ["x"]}),
    "an id out of time": raw({**GOOD, "id": "ffffffff-ffff-7000-8000-000000000000"}),
}
NO_UPDATE = {
    "a list": raw([]),
    "null": raw(None),
    "an empty object": raw({}),
    "no status": raw({"id": UPDATE["id"]}),
    "an unknown status": raw({**UPDATE, "status": "read"}),
    "the first status": raw({**UPDATE, "status": "registered"}),
    "a status as a list": raw({**UPDATE, "status": []}),
    "a status as an object": raw({**UPDATE, "status": {}}),
    "a status as null": raw({**UPDATE, "status": None}),
    "an id that is none": raw({**UPDATE, "id": "x"}),
    "an id as a number": raw({**UPDATE, "id": 5}),
    "an id as an object": raw({**UPDATE, "id": {}}),
    "an unknown field": raw({**UPDATE, "reporter": "me"}),
    "an empty field name": raw({**UPDATE, "": 1}),
    "a detail as an object": raw({**UPDATE, "detail": {}}),
    "a detail as null": raw({**UPDATE, "detail": None}),
    "a detail too long": raw({**UPDATE, "detail": "x" * 201}),
    "a detail with NUL": raw({**UPDATE, "detail": "\0"}),
    "a time that is none": raw({**UPDATE, "at": "yesterday"}),
    "a time as a number": raw({**UPDATE, "at": 5}),
    "a time as a list": raw({**UPDATE, "at": []}),
    "a time without offset": raw({**UPDATE, "at": "2026-01-01T00:00:00"}),
    "a date": raw({**UPDATE, "at": "2026-01-01"}),
    "a day that is none": raw({**UPDATE, "at": "2026-02-30T00:00:00Z"}),
    "an offset that is none": raw({**UPDATE, "at": "2026-01-01T00:00:00+99:99"}),
    "a time before the calendar": raw({**UPDATE, "at": "0001-01-01T00:00:00+14:00"}),
    "a time after the calendar": raw({**UPDATE, "at": "9999-12-31T23:59:59-14:00"}),
    "no updates": raw({"updates": []}),
    "too many updates": raw({"updates": [UPDATE] * 1001}),
    "updates as an object": raw({"updates": {}}),
    "an update as a number": raw({"updates": [5]}),
    "an update as null": raw({"updates": [UPDATE, None]}),
    "a field beside the updates": raw({"updates": [UPDATE], "id": "x"}),
}


def refusal(answer):
    """Check the shape that every refusal has, and return its code."""
    assert answer["Content-Type"] == MEDIA_TYPE
    assert not Message.objects.exists()
    assert not StatusEvent.objects.exists()
    problem = answer.json()
    assert problem["status"] == answer.status_code == CODES[problem["code"]][0]
    assert problem["detail"]
    assert len(answer.content) < 8000
    return problem["code"]


@pytest.mark.parametrize("path", ["/register", "/status_update"])
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_not_json_is_refused(call, path, body):
    assert refusal(call(path, body)) == "malformed_json"


@pytest.mark.parametrize("body", NO_REGISTRATION.values(), ids=NO_REGISTRATION)
def test_what_registers_nothing_is_refused(call, body):
    assert refusal(call("/register", body)) in ("invalid_request", "invalid_message")


@pytest.mark.parametrize("body", NO_UPDATE.values(), ids=NO_UPDATE)
def test_what_updates_nothing_is_refused(call, body):
    assert refusal(call("/status_update", body)) == "invalid_request"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_only_json_is_taken(call, kind):
    assert refusal(call("/register", raw(GOOD), content_type=kind)) == "unsupported_media_type"


@pytest.mark.parametrize("charset", ["utf-16", "rot13", "hex", "zlib", "unicode_escape", "no-such-thing"])
def test_a_charset_cannot_change_what_the_bytes_mean(call, charset):
    body = b"[" + raw(GOOD)
    assert refusal(call("/register", body, content_type=f"application/json; charset={charset}")) == "malformed_json"


def test_a_body_over_the_limit_is_refused_also_without_our_own_server(call, settings):
    settings.MAX_BODY_BYTES = 65536
    assert refusal(call("/register", b" " * 65537)) == "too_large"


@pytest.mark.parametrize("path", ["/register", "/status_update"])
def test_get_is_refused(call, path):
    assert refusal(call(path)) == "method_not_allowed"


@pytest.mark.parametrize("role", ["client", "ingest", "gateway", "admin", "prometheus", "registry", "portal", "jobs"])
def test_only_a_worker_registers(people, call, role):
    assert refusal(call("/register", GOOD, peer=people.peer("somebody", role))) == "role_not_allowed"


@pytest.mark.parametrize("role", ["client", "ingest", "admin", "prometheus", "registry", "portal", "jobs"])
def test_only_workers_and_gateways_update(people, call, role):
    assert refusal(call("/status_update", UPDATE, peer=people.peer("somebody", role))) == "role_not_allowed"


def test_nobody_comes_in_without_a_certificate(call):
    assert refusal(call("/register", GOOD, peer=None)) == "certificate_required"


def test_a_revoked_worker_is_refused(people, call):
    worker = people.peer("fired", "worker")
    people.revoke("fired")
    assert refusal(call("/register", GOOD, peer=worker)) == "certificate_revoked"
