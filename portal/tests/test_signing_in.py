import re

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.test import AsyncClient, Client

from portal.tests.conftest import PASSWORD, Send

LOGIN = {"username": "sam@example.com", "password": PASSWORD}
LOGIN_PAGES = ["/login/", "/admin/login/"]


def test_a_person_signs_in_and_out(anyone: Client, sam: User, send: Send) -> None:
    message = send()
    wanted = f"/messages/{message.uid}/"
    form = anyone.get(wanted)
    assert form.headers["Location"] == f"/login/?next={wanted}"
    answer = anyone.post("/login/", {**LOGIN, "next": wanted})
    assert answer.headers["Location"] == wanted
    assert anyone.get(wanted).status_code == 200
    assert anyone.post("/logout/").headers["Location"] == "/login/"
    assert anyone.get(wanted).status_code == 302


def test_a_wrong_password_is_told_without_saying_which_half_was_wrong(anyone: Client, sam: User) -> None:
    answers = [
        anyone.post("/login/", {**LOGIN, **wrong}).content.decode() for wrong in ({"password": "x"}, {"username": "x"})
    ]
    assert all("Please enter a correct username and password" in answer for answer in answers)


def guess(client: Client, page: str, address: str, name: str = "sam@example.com") -> int:
    return int(client.post(page, {"username": name, "password": "wrong"}, REMOTE_ADDR=address).status_code)


@pytest.mark.parametrize("page", LOGIN_PAGES)
def test_guessing_from_one_address_is_slowed_down_whatever_names_are_tried(
    anyone: Client, sam: User, page: str
) -> None:
    assert [guess(anyone, page, "10.0.0.1", f"user{number}") for number in range(11)] == [200] * 10 + [429]
    answer = anyone.post(page, LOGIN, REMOTE_ADDR="10.0.0.1", headers={"X-Forwarded-For": "10.0.0.9"})
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "Too many attempts to sign in" in answer.content.decode()
    assert "sessionid" not in anyone.cookies


@pytest.mark.parametrize("page", LOGIN_PAGES)
def test_guessing_one_name_is_slowed_down_from_all_addresses_together(anyone: Client, sam: User, page: str) -> None:
    spellings = ["sam@example.com", " SAM@Example.com", "s\u00e1m@example.com"]
    answers = [guess(anyone, page, f"10.0.0.{number}", spellings[number % 3]) for number in range(11)]
    assert answers == [200] * 10 + [429]


def test_the_doors_are_counted_together(anyone: Client, sam: User) -> None:
    assert [guess(anyone, page, "10.0.0.1") for page in LOGIN_PAGES * 5] == [200] * 10
    answer = anyone.post("/api/token/", LOGIN, content_type="application/json", REMOTE_ADDR="10.0.0.1")
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")


def test_guessing_locks_out_nobody_else(anyone: Client, sam: User, ada: User) -> None:
    for _ in range(30):
        guess(anyone, "/login/", "10.0.0.1")
    assert anyone.post("/login/", {**LOGIN, "username": ada.username}, REMOTE_ADDR="10.0.0.2").status_code == 302


def test_an_address_that_is_refused_does_not_use_up_the_attempts_of_a_name(anyone: Client, sam: User) -> None:
    for number in range(10):
        guess(anyone, "/login/", "10.0.0.1", f"user{number}")
    for _ in range(30):
        assert guess(anyone, "/login/", "10.0.0.1") == 429
    assert anyone.post("/login/", LOGIN, REMOTE_ADDR="10.0.0.2").status_code == 302


def test_looking_at_the_login_page_is_not_counted(anyone: Client, sam: User) -> None:
    assert {anyone.get("/login/").status_code for _ in range(30)} == {200}
    assert anyone.post("/login/", LOGIN).status_code == 302


def test_signing_in_leads_to_no_other_site(anyone: Client, sam: User) -> None:
    assert anyone.post("/login/", {**LOGIN, "next": "https://evil.example/"}).headers["Location"] == "/"


def test_signing_in_needs_a_csrf_token(anyone: Client, sam: User) -> None:
    anyone.handler.enforce_csrf_checks = True
    assert anyone.post("/login/", LOGIN).status_code == 403
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', anyone.get("/login/").content.decode())[1]
    fields = {**LOGIN, "csrfmiddlewaretoken": token}
    answer = anyone.post("/login/", fields, headers={"Origin": "https://testserver"})
    assert answer.status_code == 302


def test_signing_out_is_no_link_that_others_could_plant(browser: Client) -> None:
    assert browser.get("/logout/").status_code == 405
    assert browser.get("/").status_code == 200


@pytest.mark.parametrize("path", ["/", "/login/", "/admin/", "/nothing/", "/api/messages/"])
def test_every_answer_carries_the_security_headers(browser: Client, path: str) -> None:
    headers = browser.get(path).headers
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    # no-referrer would make browsers send "Origin: null" with forms, and the CSRF check would refuse them.
    assert headers["Referrer-Policy"] == "same-origin"
    assert int(headers["Strict-Transport-Security"].removeprefix("max-age=")) >= 31_536_000


def test_cookies_stay_on_https_and_out_of_scripts(anyone: Client, sam: User) -> None:
    anyone.post("/login/", LOGIN)
    session, csrf = anyone.cookies["sessionid"], anyone.cookies["csrftoken"]
    assert session["secure"]
    assert session["httponly"]
    assert session["samesite"] == "Lax"
    assert csrf["secure"]


def test_static_files_are_served_and_may_be_kept(anyone: Client, db: None) -> None:
    answer = anyone.get("/static/portal/portal.css")
    assert answer.status_code == 200
    assert "no-store" not in answer.headers["Cache-Control"]
    assert b"prefers-color-scheme" in answer.content
    unchanged = anyone.get("/static/portal/portal.css", headers={"If-Modified-Since": answer.headers["Last-Modified"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_a_static_file_is_served_in_one_piece_by_the_asgi_server(anyone: Client, db: None) -> None:
    # Django warns about streaming a file there, and a warning fails a test.
    answer = async_to_sync(AsyncClient().get)("/static/portal/portal.css")
    assert not answer.streaming


@pytest.mark.parametrize("path", ["/", "/login/", "/nothing/"])
def test_pages_hold_no_inline_style_or_script(browser: Client, path: str) -> None:
    page = browser.get(path).content.decode()
    assert not re.search(r"<script|<style|\sstyle=|\son[a-z]+=", page)


def test_an_unknown_host_gets_an_error_page(anyone: Client) -> None:
    answer = anyone.get("/login/", headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert "cannot be understood" in answer.content.decode()


def test_a_failure_of_ours_is_a_page_for_people_and_a_problem_for_programs(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the database went away")

    monkeypatch.setattr("portal.queries.MessageQuery.page", fail)
    browser.raise_request_exception = False
    answer = browser.get("/")
    assert answer.status_code == 500
    assert "Something went wrong on our side" in answer.content.decode()
    assert "went away" not in answer.content.decode()
