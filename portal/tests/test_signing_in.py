import re

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.test import AsyncClient, Client

from portal.tests.conftest import PASSWORD, Send

LOGIN = {"username": "sam@example.com", "password": PASSWORD}


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
