import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from certs_app.files import write_secret
from portal import cursors, queries
from portal.queries import MessageQuery
from portal.tests.conftest import NOON, SENDER, Send, uid_of
from portal.tests.test_message_list import shown
from registry import blind_index, key_document, keyring
from registry.key_document import INDEX
from registry.keyring import KeyRing
from registry.models import Message
from registry.search import lookup

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
    ("asked", "body"),
    [
        ({"sender": "0000"}, "for you"),
        ({"sender": "+49 1520*"}, "for you"),
        ({"words": "You"}, "for you"),
        ({"words": '"for you"', "sender": SENDER}, "for you"),
        ({"words": "you", "sender": OTHER}, None),
        ({"sender": "1111", "words": "nobody"}, None),
    ],
)
def test_parts_of_a_number_and_words_find_as_well(
    browser: Client, send: Send, asked: dict[str, str], body: str | None
) -> None:
    wanted = send("for you")
    send("not meant", sender_number=OTHER)
    assert shown(browser.post("/", asked)) == ([uid_of(wanted)] if body else [])


def test_words_stay_in_the_form_and_travel_to_the_next_page_unseen(browser: Client, send: Send) -> None:
    for number in range(60):
        send(f"pump {number}", at=NOON + timedelta(seconds=number))
    page = browser.post("/", {"words": "pump"}).content.decode()
    assert 'name="words" value="pump"' in page
    assert not re.search(r'(href|action|src)="[^"]*pump', page)
    assert len(shown(browser.post("/", {"words": "pump", **_hidden(page)}))) == 10


def test_a_search_that_opened_its_share_goes_on_on_the_next_page(
    browser: Client, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "MAX_OPENED", 5)
    monkeypatch.setattr(lookup, "_FEW_WAITING", 3)
    wanted = send("needle")
    for _ in range(7):
        send("hay")
    page = browser.post("/", {"words": "needle"}).content.decode()
    assert "Nothing found so far" in page
    assert shown(browser.post("/", {"words": "needle", **_hidden(page)})) == [uid_of(wanted)]


@pytest.mark.parametrize("words", ["?", "a", "x" * 201, " ".join("abcdefghijklmnopq")])
def test_words_that_nothing_can_be_found_by_are_answered_in_the_form(browser: Client, send: Send, words: str) -> None:
    send()
    answer = browser.post("/", {"words": words})
    assert answer.status_code == 422
    assert 'role="alert"' in answer.content.decode()


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


@pytest.fixture
def two_index_keys(settings: Any, tmp_path: Path) -> KeyRing:
    """A key ring whose index key is being rotated: 1 is active, 2 primary."""
    document = key_document.first(NOON).add(INDEX, NOON)[0].promote(INDEX, 2, NOON)
    settings.KEY_FILE = tmp_path / "keyring.json"
    write_secret(settings.KEY_FILE, key_document.encode(document))
    return KeyRing.of(document)


def under_the_former_key(*messages: Message) -> None:
    for message in messages:
        index = blind_index.value(SENDER, keyring.ring(), 1)
        Message.objects.filter(pk=message.pk).update(sender_index=index)


def test_while_an_index_key_is_rotated_pages_lose_and_repeat_nothing(two_index_keys: KeyRing, send: Send) -> None:
    # Times that several share, under both keys in turn.
    sent = [send(at=NOON + timedelta(seconds=number // 5)) for number in range(40)]
    under_the_former_key(*sent[::2], *sent[7:13])
    seen, position = [], None
    while position is not None or not seen:
        page = MessageQuery(sender=SENDER, limit=7, cursor=position).page()
        seen += [one.row.pk for one in page.messages]
        position = cursors.read(page.next) if page.next else None
    assert seen == [one.pk for one in sorted(sent, key=lambda one: (one.received_at, one.pk), reverse=True)]
    assert page.count.number == 40


def test_while_an_index_key_is_rotated_each_statement_is_for_one_key(two_index_keys: KeyRing, send: Send) -> None:
    under_the_former_key(send(), send())
    send()
    ordered: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        ordered.extend([sql] * ("ORDER BY" in sql))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        assert len(MessageQuery(sender=SENDER).page().messages) == 3
    assert ordered
    assert not [sql for sql in ordered if re.search(r"sender_index\W+IN\b", sql)], "it sorts all of the sender's rows"


@pytest.mark.parametrize("direction", [(1, 2), (2, 1)], ids=["to the new key", "back to the former key"])
def test_a_message_that_reindex_moves_meanwhile_is_found_once(
    two_index_keys: KeyRing, send: Send, direction: tuple[int, int]
) -> None:
    message, moved = send(), []
    before, after = (blind_index.value(SENDER, two_index_keys, key_id) for key_id in direction)
    Message.objects.update(sender_index=before)

    def move_after_the_first(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        answer = execute(sql, params, many, context)
        if "ORDER BY" in sql and not moved:
            moved.append(sql)
            Message.objects.update(sender_index=after)
        return answer

    with connection.execute_wrapper(move_after_the_first):
        found = MessageQuery(sender=SENDER).page().messages
    assert [one.row.pk for one in found] == [message.pk]
    assert moved
