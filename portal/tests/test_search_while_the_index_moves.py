"""A search loses nothing while messages are indexed and runs are made anew, and does not stop at what is damaged."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from portal import queries
from portal.tests.conftest import NOON, Api, Send
from portal.tests.test_word_search import found, index, merge
from registry.models import Message, Posting, Run, Unindexed
from registry.search import building


def once(when: Callable[[str], bool], do: Callable[[], object], *, before: bool = False) -> Any:
    """Do something at the first statement that is meant."""
    done: list[str] = []

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        is_meant = not done and sql.startswith("SELECT") and when(sql)
        if is_meant:
            done.append(sql)
        if is_meant and before:
            do()
        answer = execute(sql, params, many, context)
        if is_meant and not before:
            do()
        return answer

    return connection.execute_wrapper(wrapper)


def of_table(model: Any) -> Callable[[str], bool]:
    """Mean the statements that look for rows in a table; Django quotes its name, the lookup does not."""
    return lambda sql: re.search(rf"FROM \W?{model._meta.db_table}\W? WHERE", sql) is not None


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7])
def test_messages_that_become_indexed_during_a_search_are_found_once(api: Api, send: Send, number: int) -> None:
    bodies = [send(f"pump {count}").message_body for count in range(3)]
    seen = []

    def nth(sql: str) -> bool:
        seen.append(sql)
        return len(seen) == number and "registry_" in sql

    with once(nth, index):
        assert found(api, words="pump") == bodies[::-1]


@pytest.mark.parametrize("table", [Run, Posting, Unindexed, Message])
@pytest.mark.parametrize("before", [True, False])
def test_a_run_that_is_made_anew_during_a_search_hides_nothing(api: Api, send: Send, table: Any, before: bool) -> None:
    for count in range(3):
        send(f"pump {count}")
        index()
    with once(of_table(table), merge, before=before):
        assert found(api, words="pump") == ["pump 2", "pump 1", "pump 0"]
    assert Run.objects.count() == 1


def name_a_key_that_never_was(message: Message) -> None:
    blob = bytearray(Message._meta.get_field("message_body").value_from_object(message).blob)
    blob[2] ^= 1
    with connection.cursor() as cursor:
        cursor.execute("UPDATE registry_message SET message_body = %s WHERE id = %s", [bytes(blob), message.pk])


def test_a_row_that_names_a_missing_key_waits_and_stops_nobody(api: Api, send: Send) -> None:
    bad, _ = send("pump bad"), send("pump good")
    name_a_key_that_never_was(bad)
    assert found(api, words="pump") == ["pump good"]
    index()
    assert list(Unindexed.objects.values_list("message_id", flat=True)) == [bad.pk]
    assert found(api, words="pump") == ["pump good"]


def test_an_indexed_row_whose_key_is_gone_waits_again_when_its_run_is_made_anew(api: Api, send: Send) -> None:
    bad, _ = send("pump bad"), send("pump good")
    index()
    name_a_key_that_never_was(bad)
    merge()
    assert list(Unindexed.objects.values_list("message_id", flat=True)) == [bad.pk]
    assert found(api, words="pump") == ["pump good"]


def test_a_run_of_a_missing_index_key_hides_nothing(api: Api, send: Send) -> None:
    send("pump")
    send("valve")
    index()
    Run.objects.update(key_id=9)
    assert found(api, words="pump") == ["pump"]
    Run.objects.update(members=b"damaged")
    assert found(api, words="pump") == ["pump"], "nor when it does not say what is in it"


def test_indexing_ends_though_messages_keep_coming(send: Send) -> None:
    send("pump")
    runs = []

    def one_more(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("INSERT INTO") and "registry_search_run" in sql:
            runs.append(sql)
            assert len(runs) < 5, "it goes on and on"
            send("another")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(one_more):
        building.index_new(timezone.now())
    assert len(runs) == 1


def test_indexing_goes_on_behind_a_part_that_somebody_else_changes(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_is_ripe", lambda segment: True)

    def overtaken(segment: int, now: object) -> int:
        raise building.Overtaken("somebody was quicker")

    monkeypatch.setattr(building, "refresh", overtaken)
    send("pump")
    building.index_new(timezone.now())
    assert Run.objects.count() == 1


def test_a_frequent_word_and_a_filter_that_fits_nothing_cost_a_page_and_no_more(
    api: Api, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "_FEW_LEFT", 0)
    monkeypatch.setattr(queries, "MAX_LOOKED_AT", 30)
    monkeypatch.setattr(queries, "_MOST_AT_A_TIME", 10)
    wanted = send("pump wanted")
    wanted.advance("failed", NOON, "", "worker/w1")
    for count in range(100):
        send(f"pump {count}")
    index()
    statements = []

    def counted(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        statements.append(sql)
        return execute(sql, params, many, context)

    asked: dict[str, object] = {"words": "pump", "status": "failed", "limit": 3}
    with connection.execute_wrapper(counted):
        page = api.post("/api/messages/search/", asked).json()
    assert (page["results"], page["count_capped"]) == ([], True)
    assert len([sql for sql in statements if of_table(Message)(sql)]) < 8
    pages = 1
    while not page["results"]:
        page = api.post("/api/messages/search/", {**asked, "cursor": page["next"]}).json()
        pages += 1
    assert [result["message_body"] for result in page["results"]] == ["pump wanted"]
    assert pages == 4


@pytest.mark.parametrize("few", [0, 1, 5000])
def test_few_rows_that_the_other_filters_leave_are_found_at_once(
    api: Api, send: Send, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(queries, "_FEW_LEFT", few)
    monkeypatch.setattr(queries, "_MOST_AT_A_TIME", 10)
    for count in range(20):
        send(f"pump {count}", client="dave" if count in (3, 17) else "alice", at=NOON + timedelta(minutes=count))
    index()
    assert found(api, words="pump", client="dave") == ["pump 17", "pump 3"]
    assert found(api, words="pump", client="nobody") == []
    window = {"received_from": "2026-01-31T12:03:00Z", "received_to": "2026-01-31T12:04:00Z"}
    assert found(api, words="pump", **window) == ["pump 3"]
    assert found(api, words='"pump 3"', client="dave") == ["pump 3"]
