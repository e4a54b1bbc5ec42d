"""The accept path and the DRF view share their rules; this holds them to the same answers."""

import re

import pytest

from ingest.tests.conftest import Call
from ingest.tests.malformed import CASES, GOOD, but

VOLATILE = {"date", "ratelimit", "content-length", "vary", "allow"}
UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

ACCEPTED = {
    "one message": Call(body=GOOD),
    "all fields": Call(body=but(client_reference="ref-1", sent_at="2026-01-31T12:00:00+02:00")),
    "charset given": Call(body=GOOD, content_type='application/json; charset="UTF-8"'),
    "a batch": Call("/submit/batch", body={"messages": [GOOD, but(message_body=""), GOOD]}),
    "NDJSON": Call(
        "/submit/batch",
        body=b'{"sender_number":"+4915200000000","message_body":"1"}\n\n{"sender_number":"x","message_body":"2"}\n',
        content_type="application/x-ndjson",
    ),
    "a batch of bad ones": Call("/submit/batch", body={"messages": [1, None]}),
}


@pytest.mark.parametrize("name", [*ACCEPTED, *CASES])
def test_both_doors_give_the_same_answer(name, people, valkey, accept_path, drf_view):
    call = ACCEPTED[name] if name in ACCEPTED else CASES[name][0]
    alice = people.peer("alice")
    (ours,), (theirs,) = accept_path([call], alice), drf_view([call], alice)
    assert ours.status == theirs.status
    assert UUID.sub(b"ID", ours.body) == UUID.sub(b"ID", theirs.body)
    assert _stable(ours.headers) == _stable(theirs.headers)


def _stable(headers: dict[str, str]) -> dict[str, bytes]:
    return {name: UUID.sub(b"ID", value.encode()) for name, value in headers.items() if name not in VOLATILE}


@pytest.mark.parametrize("name", CASES)
def test_each_malformed_request_has_its_own_clear_error(name, people, valkey, accept_path):
    call, status, code, field, field_code = CASES[name]
    (answer,) = accept_path([call], people.peer("alice"))
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == code
    assert problem["detail"]
    if field is not None:
        assert {"field": field, "code": field_code}.items() <= problem["errors"][0].items()
    assert valkey.client.llen("deliver") == 0, "a refused request must queue nothing"


def test_both_doors_refuse_the_same_people(people, valkey, accept_path, drf_view):
    people.issue("bob", "client")
    bob, worker = people.peer("bob"), people.peer("worker", "worker")
    people.revoke("bob")
    for peer, code in ((None, "certificate_required"), (worker, "role_not_allowed"), (bob, "certificate_revoked")):
        for door in (accept_path, drf_view):
            (answer,) = door([Call(body=GOOD)], peer)
            assert (answer.status, answer.json()["code"]) == (403, code)
