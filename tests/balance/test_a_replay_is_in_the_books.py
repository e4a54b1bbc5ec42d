"""A client whose first request got no 202 sends it again: what it is told then is in the ledger, whoever it asks."""

import json

from ingest.ledger import Ledger, Line
from registry.models import Message
from tests.balance.conftest import as_ids
from tests.balance.test_reconcile import document
from tests.balance.test_reconcile import reconcile as reconcile
from tests.balance.test_what_the_ledger_does_not_know import is_settled, lose_ledger
from wire.ids import following


def unanswered(home, key="order-1", number=1):
    """Submit what Redis takes, and kill ingest before its line: the client has no 202. Return the ids."""
    ids = submit(home, key, number)
    lose_ledger(home)
    return ids


def submit(home, key="order-1", number=1):
    return home.submit(1, key=key) if number == 1 else home.submit_batch(number, key=key)


def test_what_is_lost_after_a_replay_is_named(home):
    (lost,) = unanswered(home)
    assert submit(home) == [lost]
    home.valkey.client.flushall()
    assert home.balance(2).unaccounted == 1
    assert home.missing == {lost}


def test_what_waits_or_is_stored_after_a_replay_is_not_missing(home):
    unanswered(home)
    submit(home)
    assert home.balance(2).unaccounted == 0
    home.deliver()
    assert home.balance(2).unaccounted == 0
    home.registry.calls.clear()
    home.balance()
    assert not any(call.get("ids") for call in home.registry.calls), "it is stored, and not asked for again"


def test_every_message_of_a_batch_of_many_envelopes_is_known_again(home):
    ids = unanswered(home, number=250)
    assert submit(home, number=250) == ids
    home.deliver(2)
    home.valkey.client.flushall()
    assert home.balance(2).unaccounted == 50
    assert home.missing == set(ids[200:])


def test_replays_of_what_is_in_the_ledger_count_once(home, reconcile):
    (stored,) = home.submit(1, key="order-1")
    (lost,) = home.submit(1, key="order-2")
    for _ in range(3):
        submit(home)
        submit(home, "order-2")
        home.balance()
    home.deliver(1)
    home.valkey.client.delete("deliver")
    assert home.balance(2).unaccounted == 1
    assert home.missing == {lost}
    code, found = document(reconcile)
    (row,) = found["rows"]
    assert (code, row["accepted"], row["stored"], row["unaccounted"]) == (1, 2, 1, 1)
    Message.objects.get(uid=stored)


def test_a_line_that_comes_after_its_replay_counts_once(home):
    (first,) = as_ids(*unanswered(home))
    envelope = json.loads(home.valkey.client.lindex("deliver", 0))["headers"]["id"]
    submit(home)
    home.balance()
    # Another process had the answer of Redis all the time.
    Ledger(home.folder).record([Line(*as_ids(envelope), first, 1, "alice")])
    home.deliver()
    assert home.balance(2).unaccounted == 0
    assert is_settled(home)


def test_another_ingest_answers_for_what_the_first_one_took(home, make_home):
    second = make_home("second")
    (stored,) = unanswered(home)
    (lost,) = unanswered(home, "order-2")
    assert submit(second) + submit(second, "order-2") == [stored, lost]
    home.deliver(1)
    home.valkey.client.delete("deliver")
    assert second.balance(2).unaccounted == 1
    assert second.missing == {lost}


def test_a_restart_and_damaged_books_forget_no_replay(home):
    (lost,) = unanswered(home)
    submit(home)
    home.balance()
    home.restart()
    (home.folder / "balance.sqlite3").write_bytes(b"\xff" * 8192)
    home.valkey.client.flushall()
    assert home.balance(2).unaccounted == 1
    assert home.missing == {lost}


def test_reconcile_names_it_and_counts_it_among_what_was_accepted(home, reconcile):
    (lost,) = unanswered(home)
    submit(home)
    home.valkey.client.flushall()
    code, found = document(reconcile)
    assert (code, found["unaccounted"], [one["id"] for one in found["missing"]]) == (1, 1, [lost])
    (row,) = found["rows"]
    assert (row["accepted"], row["stored"], row["unaccounted"]) == (1, 0, 1)


def test_what_an_older_version_remembers_under_a_key_is_a_replay_still(home):
    (first,) = submit(home)
    (key,) = home.valkey.client.keys("msgsys:idempotency:*")
    record = home.valkey.client.get(key).rpartition(b"|")[0]
    home.valkey.client.set(key, record)
    assert submit(home) == [first]


def test_the_ids_of_a_replay_follow_the_first(home):
    ids = unanswered(home, number=150)
    submit(home, number=150)
    lines = [line.split() for file in home.folder.glob("*.log") for line in file.read_text().splitlines()]
    assert [line[4] for line in lines] == ["replay"] * 2
    (first,) = as_ids(ids[0])
    assert [line[1] for line in lines] == [str(first), str(following(first, 100))]
