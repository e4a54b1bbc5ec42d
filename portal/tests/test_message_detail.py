from datetime import timedelta
from uuid import uuid4

from django.test import Client

from portal.tests.conftest import NOON, Send, spoil


def test_a_message_shows_every_field(browser: Client, send: Send) -> None:
    message = send("All\nof it", client_reference="order 66", sent_at=NOON - timedelta(minutes=1))
    page = browser.get(f"/messages/{message.uid}/").content.decode()
    for part in (
        str(message.uid),
        "+4915200000000",
        "All\nof it",
        "order 66",
        "alice",
        "a1b2c3",
        "11:59:00",
        "12:00:00",
    ):
        assert part in page


def test_the_timeline_follows_the_status_from_registered_on(browser: Client, send: Send) -> None:
    message = send()
    message.advance("dispatched", NOON + timedelta(minutes=1), "", "worker/w1")
    message.advance("failed", NOON + timedelta(minutes=2), "no such subscriber", "gateway/g1")
    page = browser.get(f"/messages/{message.uid}/").content.decode()
    timeline = page[page.index('<ol class="steps">') :]
    places = [timeline.index(f'<li class="{status}">') for status in ("registered", "dispatched", "failed")]
    assert places == sorted(places)
    assert "no such subscriber" in timeline
    assert "gateway/g1" in timeline


def test_a_message_that_cannot_be_read_still_has_a_page(browser: Client, send: Send) -> None:
    message = send(client_reference="order 66")
    for column in ("sender_number", "message_body", "client_reference"):
        spoil(message, column)
    answer = browser.get(f"/messages/{message.uid}/")
    assert answer.status_code == 200
    assert answer.content.decode().count(">unreadable<") == 3


def test_an_unknown_message_gets_a_page_that_says_where_it_may_be(browser: Client) -> None:
    answer = browser.get(f"/messages/{uuid4()}/")
    assert answer.status_code == 404
    assert "may still be in the queue" in answer.content.decode()
