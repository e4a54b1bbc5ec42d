from datetime import timedelta
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client

from portal.tests.conftest import NOON, PASSWORD, SENDER, Api, Send, spoil, uid_of

OTHER = "+4915211111111"
LOGIN = {"username": "sam@example.com", "password": PASSWORD}


def test_a_list_has_the_promised_shape(api: Api, send: Send) -> None:
    message = send("Pump 7 is running", client_reference="order 66", sent_at=NOON)
    answer = api.get("/api/messages/")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    stored = message.stored_at.isoformat().replace("+00:00", "Z")
    expected = {
        "id": uid_of(message),
        "client": "alice",
        "certificate": "a1b2c3",
        "sender_number": SENDER,
        "message_body": "Pump 7 is running",
        "client_reference": "order 66",
        "sent_at": "2026-01-31T12:00:00Z",
        "received_at": "2026-01-31T12:00:00Z",
        "stored_at": stored,
        "status": "registered",
    }
    assert answer.json() == {"results": [expected], "next": None, "count": 1, "count_capped": False}
    assert api.get(f"/api/messages/{message.uid}/").json() == expected


def test_pages_follow_each_other_without_loss_or_repeat(api: Api, send: Send) -> None:
    sent = [uid_of(send(at=NOON + timedelta(seconds=number // 3))) for number in range(25)]
    seen, cursor = [], {}
    while cursor is not None:
        answer = api.get("/api/messages/", limit=10, **cursor).json()
        assert answer["count"] == 25
        seen += [result["id"] for result in answer["results"]]
        cursor = {"cursor": answer["next"]} if answer["next"] else None
    assert sorted(seen) == sorted(sent)
    assert len(seen) == 25


def test_filters_narrow_the_list(api: Api, send: Send) -> None:
    early, late = send("early", at=NOON), send("late", at=NOON + timedelta(hours=1), client="dave")
    early.advance("dispatched", NOON, "", "worker/w1")

    def found(**query: str) -> list[str]:
        return [result["id"] for result in api.get("/api/messages/", **query).json()["results"]]

    assert found(status="dispatched") == [uid_of(early)]
    assert found(client="dave") == [uid_of(late)]
    assert found(received_from="2026-01-31T13:00:00Z") == [uid_of(late)]
    assert found(received_to="2026-01-31T14:00:00+01:00") == [uid_of(early)]
    assert found(status="failed") == []


def test_a_search_by_sender_travels_in_a_body(api: Api, send: Send) -> None:
    wanted, _ = send(), send(sender_number=OTHER)
    answer = api.post("/api/messages/search/", {"sender": "+49 1520 0000000", "status": "registered", "cursor": None})
    assert [result["id"] for result in answer.json()["results"]] == [uid_of(wanted)]
    assert answer.json()["count"] == 1


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("body", "pump", "unknown_field"),
        ("last4", "000", "not_four_digits"),
        ("prefix", "49152", "not_a_prefix"),
        ("words", "a ?", "bad_words"),
        ("words", "x" * 201, "bad_words"),
        ("\ud800", 1, "unknown_field"),
        ("sender", "0152", "not_a_number"),
        ("sender", 49152, "not_a_string"),
        ("status", ["failed"], "not_a_string"),
        ("status", "lost", "unknown_status"),
        ("client", "\ud800", "bad_client"),
        ("client", "", "bad_client"),
        ("limit", 0, "bad_limit"),
        ("limit", 201, "bad_limit"),
        ("limit", True, "bad_limit"),
        ("limit", 1.5, "bad_limit"),
        ("received_from", "yesterday", "not_rfc3339"),
        ("received_from", "2026-01-31T12:00:00", "not_rfc3339"),
        ("received_to", "0001-01-01T00:00:00+14:00", "not_rfc3339"),
        ("cursor", "x", "bad_cursor"),
        ("cursor", "\ud800:x", "bad_cursor"),
    ],
)
def test_a_mistake_is_named(api: Api, field: str, value: object, code: str) -> None:
    answer = api.post("/api/messages/search/", {field: value})
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    [error] = answer.json()["errors"]
    assert error["field"] in (field, "?")
    assert error["code"] == code


def test_personal_data_is_refused_in_a_url(api: Api) -> None:
    answer = api.get("/api/messages/", sender=SENDER)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["code"] == "unknown_field"
    assert "15200000000" not in answer.content.decode()


@pytest.mark.parametrize("body", ["{", "[" * 100_000, b"\xff"])
def test_a_body_that_is_no_json_is_malformed(api: Api, body: object) -> None:
    answer = api.post("/api/messages/search/", body)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_json")


def test_a_body_that_is_no_object_is_refused(api: Api) -> None:
    assert api.post("/api/messages/search/", [1]).json()["code"] == "invalid_request"


def test_an_unreadable_value_is_null_and_named(api: Api, send: Send) -> None:
    message = send()
    spoil(message, "message_body")
    [result] = api.get("/api/messages/").json()["results"]
    assert result["message_body"] is None
    assert result["unreadable"] == ["message_body"]
    assert result["sender_number"] == SENDER


def test_a_message_that_is_not_there_is_a_problem(api: Api) -> None:
    for path in (f"/api/messages/{uuid4()}/", "/api/nothing/", "/api/messages/7/"):
        answer = api.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("token", ["", "Bearer x", "Bearer ", "Basic c2FtOng="])
def test_without_a_good_token_there_is_a_401_and_no_redirect(anyone: Client, db: None, token: str) -> None:
    headers = {"Authorization": token} if token else {}
    for path in ("/api/messages/", f"/api/messages/{uuid4()}/"):
        answer = anyone.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "Bearer" in answer.headers["WWW-Authenticate"]


def test_a_browser_session_does_not_open_the_api(browser: Client) -> None:
    assert browser.get("/api/messages/").status_code == 401


def test_an_access_token_can_be_renewed(api: Api, send: Send) -> None:
    renewed = api.post("/api/token/refresh/", {"refresh": api.tokens["refresh"]})
    assert renewed.status_code == 200
    api.tokens = {**api.tokens, **renewed.json()}
    assert api.get("/api/messages/").status_code == 200


def test_a_refresh_token_is_no_access_token(api: Api) -> None:
    api.tokens = {"access": api.tokens["refresh"]}
    assert api.get("/api/messages/").status_code == 401


def test_a_closed_account_is_out_at_once(api: Api, sam: User) -> None:
    User.objects.filter(pk=sam.pk).update(is_active=False)
    assert api.get("/api/messages/").status_code == 401
    assert api.post("/api/token/refresh/", {"refresh": api.tokens["refresh"]}).status_code == 401


@pytest.mark.parametrize("wrong", [{"password": "wrong"}, {"username": "nobody"}])
def test_bad_credentials_are_a_401_problem(anyone: Client, sam: User, wrong: dict[str, str]) -> None:
    answer = anyone.post("/api/token/", {**LOGIN, **wrong}, content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")


def test_guessing_passwords_is_slowed_down_whatever_address_the_caller_claims(anyone: Client, sam: User) -> None:
    guess = {**LOGIN, "password": "wrong"}
    answers = [
        anyone.post("/api/token/", guess, content_type="application/json", headers={"X-Forwarded-For": f"10.0.0.{n}"})
        for n in range(11)
    ]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429]
    assert answers[-1].json()["code"] == "rate_limited"
    assert int(answers[-1].headers["Retry-After"]) > 0


@pytest.mark.parametrize("body", [[1], {}, {"username": ["sam"], "password": 7}, {"username": "\ud800"}])
def test_odd_credentials_are_refused_and_counted(anyone: Client, sam: User, body: object) -> None:
    answers = {anyone.post("/api/token/", body, content_type="application/json").status_code for _ in range(10)}
    assert answers <= {401, 422}
    assert anyone.post("/api/token/", body, content_type="application/json").status_code == 429


def test_a_form_is_no_json(anyone: Client, sam: User) -> None:
    answer = anyone.post("/api/token/", LOGIN)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
