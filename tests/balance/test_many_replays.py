"""Who replays more than one pass can look for delays nobody else's alarm, and no other process."""

from contextlib import closing

import pytest

from ingest import balance, books
from ingest.registry_client import RegistryAway
from registry.models import Message
from tests.balance.conftest import as_ids
from tests.balance.test_what_the_ledger_does_not_know import lose_ledger

REPLAYS = 10


@pytest.fixture
def replayed(home, monkeypatch):
    """Messages that only replays tell of, the oldest first; a pass looks for four of them, in two steps."""
    monkeypatch.setattr(balance, "REPLAYED_A_PASS", 4)
    monkeypatch.setattr(books, "REPLAYS_AT_ONCE", 2)
    keys = [f"order-{n}" for n in range(REPLAYS)]
    first = [home.submit(1, key=key)[0] for key in keys]
    lose_ledger(home)
    assert [home.submit(1, key=key)[0] for key in keys] == first
    return first


def asked(home) -> int:
    number = sum(len(call.get("ids", ())) for call in home.registry.calls)
    home.registry.calls.clear()
    return number


def test_a_pass_asks_for_some_and_the_next_one_goes_on(home, replayed):
    home.deliver()
    found = []
    for _ in range(4):
        home.balance()
        found.append(asked(home))
    assert found == [4, 4, 2, 0]


def test_what_others_lost_is_named_in_time(home, replayed):
    (lost,) = home.submit(1, client="dave")
    home.valkey.client.lpop("deliver")
    home.deliver()
    assert home.balance(2).unaccounted == 1
    assert home.missing == {lost}
    assert home.sheet.books.has_replays()


def test_a_lost_one_is_named_when_its_turn_comes_and_stays_so(home, replayed):
    home.deliver(REPLAYS - 1)
    home.valkey.client.delete("deliver")
    assert home.balance(3).unaccounted == 0
    for _ in range(6):
        assert home.balance().unaccounted == 1
        assert home.missing == {replayed[-1]}


def test_a_suspicion_ends_when_the_replayed_message_turns_up(home, replayed):
    (entry,) = home.valkey.client.lrange("deliver", -1, -1)
    home.valkey.client.delete("deliver")
    assert home.balance(2).unaccounted == 4
    home.valkey.client.rpush("deliver", entry)
    home.balance()
    assert replayed[0] not in home.missing
    home.deliver()
    home.balance(6)
    assert home.missing == set(replayed[1:])
    Message.objects.get(uid=as_ids(replayed[0])[0])


def test_nothing_is_claimed_until_all_have_been_looked_for(home, replayed):
    home.deliver()
    assert [home.balance().settled_until is None for _ in range(3)] == [True, True, False]


def test_a_look_that_broke_off_skips_none(home, replayed):
    home.deliver(REPLAYS - 1)
    home.valkey.client.delete("deliver")

    def once(question) -> None:
        if question.get("ids"):
            home.registry.meanwhile = lambda _: None
            raise RegistryAway("it broke off")

    home.registry.meanwhile = once
    with pytest.raises(RegistryAway):
        home.balance()
    assert home.balance(4).unaccounted == 1


def test_while_replays_are_looked_for_an_operator_may_write_off(home, replayed, settings):
    settings.LEDGER_DIR = home.folder
    home.deliver()
    written_off = []

    def write_off(question) -> None:
        if question.get("ids"):
            with closing(balance.books()) as other:
                written_off.append(other.write_off())

    home.registry.meanwhile = write_off
    home.balance()
    assert written_off == [0, 0]


def test_reconcile_looks_for_all_of_them(home, replayed):
    home.valkey.client.delete("deliver")
    home.sheet.books.take_in()
    for _ in range(2):
        home.sheet.compare([])
    assert home.missing == set(replayed)
