import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from portal.tests.conftest import NOON, SENDER, Send, uid_of
from portal.tests.test_message_list import shown
from registry.models import Message

OTHER = "+4915211111111"


@pytest.mark.parametrize("typed", [SENDER, "+49 1520 0000000", "+49-1520-000 0000", "  +49 (0) 1520 0000000 "])
def test_a_number_is_found_however_it_is_typed(browser: Client, send: Send, typed: str) -> None:
    wanted, _ = send("for you"), send("not for you", sender_number=OTHER)
    assert shown(browser.post("/", {"sender": typed})) == [uid_of(wanted)]


def test_a_hit_of_the_index_counts_only_when_the_text_agrees(browser: Client, send: Send) -> None:
    wanted, twin = send(), send("somebody else's", sender_number=OTHER)
    # Two numbers whose truncated hashes are the same.
    Message.objects.filter(pk=twin.pk).update(sender_index=wanted.sender_index)
    answer = browser.post("/", {"sender": SENDER})
    assert shown(answer) == [uid_of(wanted)]
    assert "1 message," in answer.content.decode()


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("", "full number"),
        ("01520 0000000", "country code"),
        ("hello", "country code"),
        ("+49 15", "too few or too many"),
        ("+4915200000000000000", "too few or too many"),
        ("+1 555 0100", "too few or too many"),
        ("\0", "Null characters"),
    ],
)
def test_a_bad_number_is_answered_in_the_form(browser: Client, send: Send, typed: str, told: str) -> None:
    send()
    answer = browser.post("/", {"sender": typed})
    assert answer.status_code == 422
    assert told in answer.content.decode()
    assert shown(answer) == []


def test_a_number_nobody_wrote_from_says_so(browser: Client, send: Send) -> None:
    send()
    assert "No message from this number" in browser.post("/", {"sender": OTHER}).content.decode()


def test_paging_a_search_is_posted_and_puts_the_number_into_no_url(
    browser: Client, send: Send, caplog: pytest.LogCaptureFixture
) -> None:
    sent = [send(at=NOON + timedelta(seconds=number)) for number in range(110)]
    send(sender_number=OTHER)
    seen, fields = [], {"sender": SENDER}
    while fields:
        answer = browser.post("/", fields)
        seen += shown(answer)
        page = answer.content.decode()
        assert not re.search(r'(href|action|src)="[^"]*15200000000', page)
        fields = _hidden(page)
    assert seen == [uid_of(message) for message in reversed(sent)]
    assert "15200000000" not in caplog.text


def _hidden(page: str) -> dict[str, Any]:
    """Return the fields of the Older messages form."""
    form = page.partition('class="pages"')[2]
    return dict(re.findall(r'name="(sender|cursor)" value="([^"]+)"', form))


def test_a_result_page_nobody_made_is_refused(browser: Client) -> None:
    answer = browser.post("/", {"sender": SENDER, "cursor": "x"})
    assert answer.status_code == 422
    assert "Search again" in answer.content.decode()


def test_a_search_without_a_csrf_token_is_refused(anyone: Client, sam: object) -> None:
    anyone.handler.enforce_csrf_checks = True
    anyone.force_login(sam)
    answer = anyone.post("/", {"sender": SENDER})
    assert answer.status_code == 403
    assert "reload the page" in answer.content.decode()
