"""The page of dead letters: for staff with the permission, and nothing to change on it."""

import html
import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from portal.tests.conftest import Send
from registry import dead_letters
from registry.dead_letters import Letter
from registry.models import DeadLetter, DeadLetterReport
from wire.dead_letters import REASONS

PAGE = "/dead-letters/"
LINK = 'href="/dead-letters/"'
AT = 1_790_000_000  # 2026-09-21T14:13:20Z


@pytest.fixture
def allowed(browser: Client, sam: User) -> Client:
    """sam's browser; an administrator has given sam the permission."""
    sam.user_permissions.add(Permission.objects.get(codename="view_deadletter"))
    return browser


@pytest.fixture
def report(db: None) -> Callable[..., None]:
    def record(*letters: Letter, ago: timedelta = timedelta(0), total: int | None = None, queue: str = "deliver"):
        given = dead_letters.Report(len(letters) if total is None else total, list(letters), queue)
        dead_letters.record(given, "worker/w1", timezone.now() - ago)

    return record


def letter(number: int = 0, code: str = "bad_seal", at: int = AT) -> Letter:
    return Letter(f"0199-{number}", code, at)


def text(client: Client, **query: str) -> str:
    answer = client.get(PAGE, query)
    assert answer.status_code == 200
    return html.unescape(answer.content.decode())


def shown(page: str) -> list[str]:
    return re.findall(r'<td class="mono">([^<]+)</td>', page)


def test_a_letter_tells_when_which_why_and_what_to_do(allowed: Client, report: Callable[..., None]) -> None:
    report(letter())
    page = text(allowed)
    for part in ("2026-09-21", "14:13:20", "0199-0", "bad_seal", "1 envelope the", "manage.py dead_letters requeue"):
        assert part in page
    assert REASONS["bad_seal"].words in page
    assert REASONS["bad_seal"].remedy in page


def test_a_code_this_version_does_not_know_is_shown_as_it_is(allowed: Client, report: Callable[..., None]) -> None:
    report(letter(code="moon_phase"))
    page = text(allowed)
    assert "moon_phase" in page
    assert "this version does not know" in page


def test_staff_without_the_permission_are_refused_and_see_no_link(browser: Client, report: Callable[..., None]) -> None:
    report(letter())
    answer = browser.get(PAGE)
    assert answer.status_code == 403
    assert "0199-0" not in answer.content.decode()
    assert LINK not in browser.get("/").content.decode()


def test_the_permission_alone_is_not_enough_without_being_staff(
    allowed: Client, sam: User, report: Callable[..., None]
) -> None:
    sam.is_staff = False
    sam.save()
    assert allowed.get(PAGE).status_code == 403
    assert LINK not in allowed.get("/").content.decode()


def test_staff_with_the_permission_and_administrators_find_the_link(allowed: Client, ada: User, send: Send) -> None:
    assert LINK in allowed.get("/").content.decode()
    assert LINK in allowed.get(f"/messages/{send().uid}/").content.decode()
    assert f'{LINK} aria-current="page"' in text(allowed)
    allowed.force_login(ada)
    assert LINK in text(allowed)


def test_the_newest_stand_first_and_pages_show_each_once(allowed: Client, report: Callable[..., None]) -> None:
    report(*(letter(number, at=AT + number) for number in range(120)))
    pages = [text(allowed, page=str(number)) for number in (1, 2, 3)]
    assert [len(shown(page)) for page in pages] == [50, 50, 20]
    assert [one for page in pages for one in shown(page)] == [f"0199-{number}" for number in reversed(range(120))]
    assert "?page=2" in pages[0]
    assert "Newer" not in pages[0]
    assert "Older" not in pages[2]


@pytest.mark.parametrize("page", ["99", "x", "-1", "\0", "9" * 5000])
def test_a_page_that_is_not_there_shows_the_nearest_one(
    page: str, allowed: Client, report: Callable[..., None]
) -> None:
    report(letter())
    assert shown(text(allowed, page=page)) == ["0199-0"]


def test_a_report_that_did_not_come_for_five_minutes_is_called_stale(
    allowed: Client, report: Callable[..., None]
) -> None:
    report(letter(), ago=timedelta(minutes=4, seconds=50))
    assert "stale" not in text(allowed)
    assert "as of" in text(allowed)
    report(letter(), ago=timedelta(minutes=5, seconds=10))
    assert "stale" in text(allowed)
    assert "Is the worker running?" in text(allowed)


def test_no_letters_is_explained_and_so_is_no_report(allowed: Client, report: Callable[..., None]) -> None:
    assert "No worker has reported yet" in text(allowed)
    report()
    assert "No dead letters" in text(allowed)
    assert "There is nothing to do" in text(allowed)
    report(total=3)
    assert "None of them can be listed here" in text(allowed)


def test_what_a_report_leaves_out_is_said(allowed: Client, report: Callable[..., None]) -> None:
    report(*(letter(number) for number in range(1000)), total=5000)
    page = text(allowed)
    assert "5,000 envelopes" in page
    assert "Only the newest 1,000 of 5,000" in page


def test_two_queues_are_told_apart(allowed: Client, report: Callable[..., None]) -> None:
    report(letter(1), queue="north")
    report(letter(2), letter(3), queue="south", ago=timedelta(hours=1))
    page = text(allowed)
    assert "3 envelopes" in page
    assert "<bdi>north</bdi>: 1" in page
    assert "<bdi>south</bdi>: 2" in page
    assert page.count("Is the worker running?") == 1


def test_nothing_can_be_sent_to_the_page(allowed: Client, ada: User, report: Callable[..., None]) -> None:
    report(letter())
    allowed.force_login(ada)
    for method in ("post", "put", "patch", "delete"):
        assert getattr(allowed, method)(PAGE, {"action": "drop"}).status_code == 405
    assert (DeadLetter.objects.count(), DeadLetterReport.objects.count()) == (1, 1)
    page = text(allowed)
    assert page.count("<form") == 1, "the only form is the one that signs out"
