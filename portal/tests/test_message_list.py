import re
from datetime import timedelta

import pytest
from django.test import Client

from portal.tests.conftest import NOON, Send, spoil, uid_of
from wire import ids

SHOWN = re.compile(r'href="/messages/([0-9a-f-]{36})/"')
OLDER = re.compile(r'href="/(\?cursor=[^"]+)"')


def shown(answer: object) -> list[str]:
    return SHOWN.findall(answer.content.decode())


def test_the_newest_message_stands_first(browser: Client, send: Send) -> None:
    old, new, middle = (send(at=NOON + timedelta(seconds=second)) for second in (0, 20, 10))
    assert shown(browser.get("/")) == [uid_of(new), uid_of(middle), uid_of(old)]


def test_a_row_tells_when_who_what_and_how_far(browser: Client, send: Send) -> None:
    send("Pump 7\nis   running " + "x" * 200, at=NOON, client="alice")
    page = browser.get("/").content.decode()
    for part in ("2026-01-31", "12:00:00", "alice", "+4915200000000", "Pump 7 is running xxx", "registered"):
        assert part in page
    assert "x" * 80 not in page


@pytest.mark.parametrize("apart", [timedelta(0), timedelta(seconds=1)], ids=["same millisecond", "a second apart"])
def test_paging_shows_every_message_once(browser: Client, send: Send, apart: timedelta) -> None:
    first = ids.new_id(NOON.timestamp())
    sent = [
        send(str(number), uid=ids.following(first, number) if not apart else None, at=NOON + number * apart)
        for number in range(120)
    ]
    seen, sizes, url = [], [], "/"
    while url:
        answer = browser.get(url)
        sizes.append(len(shown(answer)))
        seen += shown(answer)
        older = OLDER.search(answer.content.decode())
        url = f"/{older[1]}" if older else ""
    assert seen == [uid_of(message) for message in reversed(sent)]
    assert sizes == [50, 50, 20]


def test_a_message_that_arrives_while_paging_shifts_nothing(browser: Client, send: Send) -> None:
    sent = [send(at=NOON + timedelta(seconds=number)) for number in range(60)]
    first = browser.get("/")
    send(at=NOON + timedelta(hours=1))
    second = browser.get(f"/{OLDER.search(first.content.decode())[1]}")
    assert shown(first) + shown(second) == [uid_of(message) for message in reversed(sent)]


def test_a_cursor_nobody_made_gets_a_page_that_says_what_to_do(browser: Client) -> None:
    for cursor in ("x", "W10:abc", "\udcff", "é"):
        answer = browser.get("/", {"cursor": cursor.encode("utf-8", "surrogateescape")})
        assert answer.status_code == 400
        assert "Start again from the newest" in answer.content.decode()


def test_an_empty_list_says_when_a_message_will_appear(browser: Client) -> None:
    assert "No messages yet" in browser.get("/").content.decode()


def test_one_unreadable_value_costs_one_cell(browser: Client, send: Send, caplog: pytest.LogCaptureFixture) -> None:
    message, other = send("secret text"), send("Pump 8 is running")
    spoil(message, "message_body")
    page = browser.get("/").content.decode()
    assert "unreadable" in page
    assert "Pump 8 is running" in page
    assert shown(browser.get("/")) == [uid_of(other), uid_of(message)]
    record = caplog.records[0]
    assert (str(record.uid), record.column, record.reason) == (uid_of(message), "message_body", "tampered")
    assert "+4915200000000" not in caplog.text


def test_a_body_is_text_and_never_markup(browser: Client, send: Send) -> None:
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    message = send(attack, client_reference=attack)
    for url in ("/", f"/messages/{message.uid}/", f"/admin/registry/message/{message.pk}/change/"):
        page = browser.get(url).content.decode()
        assert "&lt;script&gt;alert(1)" in page
        assert "<script>alert" not in page
        assert "<img src=x" not in page
