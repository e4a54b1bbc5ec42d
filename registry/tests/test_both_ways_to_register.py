"""POST /register goes past Django (certs_app.direct); whoever is not served there meets the view. Both say the same."""

import base64
import json
from dataclasses import dataclass

import pytest
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from certs_app.admission import PEER
from certs_app.direct import Direct
from certs_app.models import Certificate
from registry import storing, views
from registry.models import Message
from registry.tests.conftest import new_id
from wire.problems import MEDIA_TYPE

JSON = [(b"content-type", b"application/json")]


@dataclass
class Heard:
    status: int
    media_type: str
    said: object
    retry_after: str | None


def by_django(peer, body):
    client = Client(raise_request_exception=False)
    answer = client.generic("POST", "/register", body, content_type="application/json", **{PEER: peer})
    return Heard(answer.status_code, answer["content-type"], answer.json(), answer.get("retry-after"))


def directly(peer, body):
    scope = {"type": "http", "method": "POST", "path": "/register", "headers": JSON, PEER: peer}
    route = Direct("/register", views.register)
    assert route.takes(scope)
    answer = route.answer(scope, body)
    return Heard(answer.status, answer.media_type, json.loads(answer.body), answer.headers.get("Retry-After"))


WAYS = pytest.mark.parametrize("post", [by_django, directly])


def envelopes(*blobs):
    return json.dumps({"envelopes": [base64.b64encode(blob).decode() for blob in blobs]}).encode()


@pytest.fixture
def worker(people, as_role):
    as_role("registry")
    return people.peer("worker", "worker")


@WAYS
def test_envelopes_are_stored_and_answered_one_by_one(ingest, worker, post):
    good = ingest.envelope()
    heard = post(worker, envelopes(good, b"no envelope"))
    assert (heard.status, heard.media_type) == (200, "application/json")
    assert [one["outcome"] for one in heard.said["results"]] == ["stored", "rejected"]
    assert post(worker, envelopes(good)).said["results"][0]["outcome"] == "duplicate"
    assert Message.objects.count() == 1


@WAYS
def test_one_message_in_the_clear(worker, post):
    one = {"id": str(new_id()), "sender_number": "+4915200000000", "message_body": "x"}
    assert post(worker, json.dumps(one).encode()).status == 201
    again = post(worker, json.dumps(one).encode())
    assert (again.status, again.said) == (200, {"id": one["id"], "status": "registered"})


@WAYS
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "invalid_message"),
        (b"{", 400, "malformed_json"),
        (b'{"a": "\xff"}', 400, "malformed_json"),
        (b'{"a": "\\ud800"}', 400, "malformed_json"),
        (b"[" * 100_000, 400, "malformed_json"),
        (b"[]", 422, "invalid_request"),
        (b'{"envelopes": []}', 422, "invalid_request"),
        (b'{"envelopes": [1]}', 422, "invalid_request"),
        (b'{"envelopes": ["AA=="], "more": 1}', 422, "invalid_request"),
        (json.dumps({"envelopes": ["AA=="] * 101}).encode(), 422, "invalid_request"),
        (b'{"sender_number": "1"}', 422, "invalid_message"),
    ],
)
def test_a_body_that_does_not_fit_is_refused_alike(worker, post, body, status, code):
    heard = post(worker, body)
    assert (heard.status, heard.media_type, heard.said["code"]) == (status, MEDIA_TYPE, code)


@WAYS
def test_another_role_may_not(people, worker, post):
    heard = post(people.peer("alice", "client"), b"{}")
    assert (heard.status, heard.said["code"]) == (403, "role_not_allowed")


@WAYS
def test_without_a_certificate_nobody_may(worker, post):
    assert post(None, b"{}").said["code"] == "certificate_required"


@WAYS
def test_a_revoked_worker_may_not(people, worker, post):
    people.revoke("worker")
    assert post(worker, b"{}").said["code"] == "certificate_revoked"


@WAYS
def test_the_use_of_a_renewed_certificate_is_noted(people, worker, post):
    post(people.peer("other", "worker"), b"{}")
    assert Certificate.objects.get(name="other").first_used_at <= timezone.now()


@WAYS
def test_a_database_that_is_away_answers_500_and_the_envelope_stays_with_the_worker(ingest, worker, post, monkeypatch):
    def away(*arguments):
        raise OperationalError("gone away")

    monkeypatch.setattr(storing, "store", away)
    heard = post(worker, envelopes(ingest.envelope()))
    assert (heard.status, heard.said["code"]) == (500, "internal_error")


@WAYS
def test_a_missing_sealing_key_answers_503_with_a_time_to_try_again(ingest, worker, post):
    heard = post(worker, envelopes(ingest.envelope(key_id=9)))
    assert (heard.status, heard.said["code"], heard.retry_after) == (503, "sealing_key_missing", "30")
    assert not Message.objects.exists()


@pytest.mark.parametrize(
    "other",
    [
        {"method": "GET"},
        {"path": "/register/"},
        {"path": "/status_update"},
        {"headers": []},
        {"headers": [(b"content-type", b"text/plain")]},
        {"headers": [*JSON, (b"accept", b"text/html")]},
    ],
)
def test_what_is_not_in_the_usual_form_is_left_to_the_view(other):
    usual = {"type": "http", "method": "POST", "path": "/register", "headers": JSON}
    route = Direct("/register", views.register)
    assert route.takes(usual)
    assert not route.takes({**usual, **other})
