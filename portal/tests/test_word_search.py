"""Words and parts of numbers are found whether a message waits for the index, lies in a run of its own, or in a merged
one; each test of the answers runs in all three states.
"""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from portal import queries
from portal.tests.conftest import NOON, Api, Send, spoil, uid_of
from registry.models import Message, Posting, Run, Unindexed
from registry.search import building, lookup

Settle = Callable[[], None]
BERLIN, ROME, DALLAS = "+4915200001234", "+390612345678", "+12145550001"


def leave() -> None:
    """Index nothing."""


def index() -> None:
    building.index_new(timezone.now())


def merge() -> None:
    """Index what waits, and make one run of it all, in whatever segment the database counts by now."""
    index()
    for segment in set(Run.objects.values_list("segment", flat=True)):
        building.rebuild(segment, timezone.now())


@pytest.fixture(params=[leave, index, merge])
def settle(request: pytest.FixtureRequest) -> Settle:
    settled: Settle = request.param
    return settled


def found(api: Api, **asked: object) -> list[str]:
    answer = api.post("/api/messages/search/", asked)
    assert answer.status_code == 200, answer.content
    return [result["message_body"] for result in answer.json()["results"]]


@pytest.mark.parametrize(
    ("words", "bodies"),
    [
        ("pump", ["Pump 8 failed again", "PUMP 7: failed"]),
        ("pump failed", ["Pump 8 failed again", "PUMP 7: failed"]),
        ("Pump again", ["Pump 8 failed again"]),
        ('"failed again"', ["Pump 8 failed again"]),
        ('"again failed"', []),
        ('"pump 7"', ["PUMP 7: failed"]),
        ("strasse", ["Straße gesperrt"]),
        ("STRASSE", ["Straße gesperrt"]),
        ("タワー", ["東京タワーに行く"]),
        ("東京 行く", ["東京タワーに行く"]),
        ("京東", []),
        ("pum", []),
        ("nothing", []),
        ("y" * 40, ["z " + "y" * 40]),
        ("y" * 35, []),
    ],
)
def test_words_find_the_messages_that_have_them_all(
    api: Api, send: Send, settle: Settle, words: str, bodies: list[str]
) -> None:
    for body in ("PUMP 7: failed", "Straße gesperrt", "東京タワーに行く", "z " + "y" * 40, "Pump 8 failed again"):
        send(body)
    settle()
    assert found(api, words=words) == bodies


def test_a_number_is_found_by_its_ends(api: Api, send: Send, settle: Settle) -> None:
    for number in (BERLIN, ROME, DALLAS):
        send(number, sender_number=number)
    settle()
    assert found(api, last4="1234") == [BERLIN]
    assert found(api, prefix="+49") == [BERLIN]
    assert found(api, prefix="+39 06 123 456") == [ROME]
    assert found(api, prefix="+1") == [DALLAS]
    assert found(api, prefix="+4915200002") == []
    assert found(api, prefix="+39", last4="5678") == [ROME]
    assert found(api, prefix="+39", last4="1234") == []


def test_words_go_together_with_every_other_filter(api: Api, send: Send, settle: Settle) -> None:
    send("pump one", sender_number=BERLIN)
    send("pump two", sender_number=ROME, client="dave", at=NOON + timedelta(hours=1))
    send("pump three", sender_number=ROME, at=NOON + timedelta(hours=2)).advance("failed", NOON, "", "worker/w1")
    settle()
    assert found(api, words="pump", client="dave") == ["pump two"]
    assert found(api, words="pump", status="failed") == ["pump three"]
    assert found(api, words="pump", received_from="2026-01-31T13:00:00Z", received_to="2026-01-31T14:00:00Z") == [
        "pump two"
    ]
    assert found(api, words="pump", sender=ROME) == ["pump three", "pump two"]
    assert found(api, words="two", sender=ROME) == ["pump two"]
    assert found(api, words="pump", prefix="+49") == ["pump one"]


def test_pages_of_a_word_follow_each_other_without_loss_or_repeat(
    api: Api, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "MAX_OPENED", 7)
    for number in range(24):
        send(f"pump {number}" if number % 4 else f"valve {number}")
        if number in (6, 13):
            index()
    seen: list[str] = []
    cursor: dict[str, str] | None = {}
    while cursor is not None:
        page = api.post("/api/messages/search/", {"words": "pump", "limit": 5, **cursor}).json()
        seen += [result["message_body"] for result in page["results"]]
        cursor = {"cursor": page["next"]} if page["next"] else None
    assert seen == [f"pump {number}" for number in reversed(range(24)) if number % 4]


def test_every_message_is_in_one_place_of_the_index(send: Send) -> None:
    first = [send(f"pump {number}") for number in range(3)]
    index()
    later = send("valve")
    assert set(Unindexed.objects.values_list("message_id", flat=True)) == {later.pk}
    assert [run.messages for run in Run.objects.all()] == [len(first)]
    index()
    assert not Unindexed.objects.exists()
    assert sorted(Run.objects.values_list("messages", flat=True)) == [1, 3]
    merge()
    assert [run.messages for run in Run.objects.all()] == [4]
    assert Posting.objects.count() == Run.objects.get().lists


def test_an_unreadable_body_is_indexed_by_its_number_only(api: Api, send: Send) -> None:
    spoil(send("pump"), "message_body")
    index()
    assert found(api, words="pump") == []
    assert found(api, last4="0000") == [None]


def test_many_runs_of_a_segment_become_one(api: Api, send: Send) -> None:
    for number in range(building.MANY_RUNS):
        send(f"pump {number}")
        index()
    assert Run.objects.count() == 1
    assert len(found(api, words="pump")) == building.MANY_RUNS


def test_the_count_says_when_there_are_more(api: Api, send: Send) -> None:
    for number in range(8):
        send(f"pump {number}")
    index()
    page = api.post("/api/messages/search/", {"words": "pump", "limit": 5}).json()
    assert (page["count"], page["count_capped"]) == (8, False)
    send("pump 8")
    send("valve")
    page = api.post("/api/messages/search/", {"words": "pump", "limit": 5}).json()
    assert (page["count"], page["count_capped"]) == (9, False)


def test_an_index_that_is_behind_loses_nothing(api: Api, send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_FEW_WAITING", 3)
    monkeypatch.setattr(queries, "MAX_OPENED", 4)
    for number in range(20):
        send("pump" if number in (0, 19) else "valve")
    first = api.post("/api/messages/search/", {"words": "pump", "limit": 5}).json()
    assert len(first["results"]) == 1
    assert first["count_capped"]
    seen, cursor = 1, first["next"]
    while cursor:
        page = api.post("/api/messages/search/", {"words": "pump", "limit": 5, "cursor": cursor}).json()
        seen, cursor = seen + len(page["results"]), page["next"]
    assert seen == 2


def test_no_word_lies_in_the_database(send: Send) -> None:
    send("pumpkin")
    index()
    held = b"".join(bytes(posting.locator) + bytes(posting.sealed) for posting in Posting.objects.all())
    assert b"pumpkin" not in held
    assert len(held) > 100


def test_deleted_messages_are_no_longer_found(api: Api, send: Send) -> None:
    kept, gone = send("pump kept"), send("pump gone")
    index()
    Message.objects.filter(pk=gone.pk).delete()
    assert found(api, words="pump") == ["pump kept"]
    assert api.get(f"/api/messages/{uid_of(kept)}/").status_code == 200
