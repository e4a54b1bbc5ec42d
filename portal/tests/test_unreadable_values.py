"""What does not open is a gap on the page, counted each time, and written down once."""

import pytest
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone

from portal.tests.conftest import Api, Send, spoil
from registry import metrics, tampering
from registry.models import Posting, Unreadable
from registry.search import building


def counted(column: str, reason: str) -> float:
    return metrics.UNREADABLE.labels(column, reason)._value.get()


def test_a_bad_value_is_written_down_when_it_is_first_shown_and_never_again(browser: Client, send: Send) -> None:
    message = send("pump")
    spoil(message, "message_body")
    one_page = f"/messages/{message.uid}/"
    before = counted("message_body", "tampered") + counted("message_body", "malformed")
    assert browser.get(one_page).content.decode().count(">unreadable<") == 1
    row = Unreadable.objects.get()
    assert (row.uid, row.column, row.seen_by) == (message.uid, "message_body", "portal")
    Unreadable.objects.all().delete()
    browser.get("/")
    browser.get(one_page)
    assert not Unreadable.objects.exists()
    assert counted("message_body", "tampered") + counted("message_body", "malformed") == before + 3


def test_another_process_does_not_write_it_down_twice(browser: Client, send: Send) -> None:
    message = send("pump")
    spoil(message, "message_body")
    for _ in range(2):
        browser.get(f"/messages/{message.uid}/")
        tampering._known.clear()
    assert Unreadable.objects.count() == 1


def test_a_page_is_shown_even_if_nothing_can_be_written(
    browser: Client, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = send("pump")
    spoil(message, "message_body")

    def refuse(*arguments: object, **options: object) -> None:
        raise DatabaseError("INSERT command denied")

    monkeypatch.setattr(type(Unreadable.objects.all()), "bulk_create", refuse)
    answer = browser.get(f"/messages/{message.uid}/")
    assert answer.status_code == 200
    assert answer.content.decode().count(">unreadable<") == 1


def test_a_changed_list_of_the_search_index_hides_no_message(api: Api, send: Send) -> None:
    for body in ("pump one failed", "pump two failed", "valve"):
        send(body)
    building.index_new(timezone.now())
    before = counted(tampering.SEARCH_LIST, "tampered")
    for posting in Posting.objects.all():
        Posting.objects.filter(pk=posting.pk).update(sealed=bytes(len(posting.sealed)))
    answer = api.post("/api/messages/search/", {"words": "pump failed"})
    assert answer.status_code == 200
    assert {one["message_body"] for one in answer.json()["results"]} == {"pump one failed", "pump two failed"}
    assert counted(tampering.SEARCH_LIST, "tampered") > before
