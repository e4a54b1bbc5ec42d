"""Old books get small, the queue is looked through no more than it may be, and nothing grows with a backlog."""

import time
from datetime import timedelta

import pytest

from ingest import balance, waiting
from ingest.ledger import Ledger, Line
from registry.models import Message
from wire.ids import new_id


def slots(home):
    return home.sheet.books.all_ranges()


@pytest.fixture
def old(home):
    """Messages that were accepted 50 hours ago, and stored."""
    at = time.time() - 50 * 3600
    uids = [new_id(at) for _ in range(3)]
    Ledger(home.folder).record([Line(new_id(at), uid, 1, "alice") for uid in uids])
    home.submit(3)
    home.deliver()
    for row, uid in zip(Message.objects.all(), uids, strict=True):
        Message.objects.filter(pk=row.pk).update(uid=uid)
    home.valkey.client.flushall()
    for file in sorted(home.folder.glob("*.log"))[1:]:
        file.unlink()
    return uids


def test_the_lines_of_a_settled_hour_go_after_two_days_and_its_sum_stays(home, old):
    home.balance()
    assert not list(home.folder.glob("*.log"))
    ((start, stop),) = slots(home)
    assert stop - start == 3_600_000
    assert home.sheet.books.slots(slots(home)[0])["alice"].count == 3


def test_a_reduced_hour_takes_in_a_line_that_comes_very_late(home, old):
    home.balance()
    Ledger(home.folder).record([Line(new_id(time.time()), old[0], 1, "alice")])
    home._slept += balance.TIDY_EVERY
    home.balance(2)
    (whole_hour,) = slots(home)
    assert home.sheet.books.slots(whole_hour)["alice"].count == 4
    assert home.missing == set()


def test_an_hour_with_something_missing_keeps_its_lines(home, old):
    Message.objects.filter(uid=old[0]).delete()
    home.balance(3)
    assert home.missing == {str(old[0])}
    assert len(list(home.folder.glob("*.log"))) == 1


def test_sums_go_after_the_days_they_are_kept(home, old, settings):
    home.balance()
    settings.LEDGER_DAYS = 3
    home.later = timedelta(days=2)
    home._slept += balance.TIDY_EVERY
    home.balance()
    assert slots(home) == []


def test_a_killed_clean_up_counts_nothing_twice(home, old, monkeypatch):
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        home.balance()
    monkeypatch.undo()
    home.restart()
    home.balance()
    assert home.sheet.books.slots(slots(home)[0])["alice"].count == 3
    assert not list(home.folder.glob("*.log"))


def test_a_long_look_through_the_queue_is_followed_by_a_rest(home, monkeypatch, settings):
    looks = []
    home.apart = settings.BALANCE_SECONDS
    seen = waiting.Lookout.ids

    def slowly(lookout):
        looks.append(1)
        home._slept += 10
        return seen(lookout)

    monkeypatch.setattr(waiting.Lookout, "ids", slowly)
    home.submit(5)
    first = home.balance()
    assert (first.complete, len(looks)) == (True, 1)
    second = home.balance()
    assert (second.complete, second.settled_until, len(looks)) == (False, first.settled_until, 1)
    home.balance(4)
    assert len(looks) == 2


def test_a_backlog_is_compared_without_asking_for_ids(home):
    home.submit(40)
    home.deliver(10)
    home.registry.calls.clear()
    assert home.balance().complete
    assert not any(call.get("ids") for call in home.registry.calls)


def test_one_lost_message_of_a_full_minute_is_found_with_few_ids(home):
    # Of one minute, half a second at a time.
    start = int(time.time()) // 60 * 60 - 120
    ids = [new_id(start + n * 0.05) for n in range(1000)]
    Ledger(home.folder).record([Line(new_id(start), uid, 1, "alice") for uid in ids])
    home.submit_batch(1000)
    home.deliver()
    for row, uid in zip(Message.objects.order_by("id"), ids, strict=True):
        Message.objects.filter(pk=row.pk).update(uid=uid)
    Message.objects.filter(uid=ids[500]).delete()
    home.registry.calls.clear()
    home.sheet.books.take_in()
    of_minute = [one for one in slots(home) if one.start == start * 1000]
    home.sheet.compare(of_minute)
    assert sum(len(call.get("ids", [])) for call in home.registry.calls) == 10


def test_a_part_of_the_ranges_may_be_answered(home, monkeypatch):
    monkeypatch.setattr("registry.balance.MAX_ROWS", 1)
    for minute in range(4):
        at = time.time() - 60 * minute
        Ledger(home.folder).record([Line(new_id(at), new_id(at), 1, "alice")])
    home.submit(3)
    home.deliver()
    home.balance(2)
    assert len(home.missing) == 4


def test_only_new_lines_are_read(home, monkeypatch):
    home.submit(3)
    home.balance()
    read = []
    entries = balance.Books._add
    monkeypatch.setattr(balance.Books, "_add", lambda books, new: (read.extend(new), entries(books, read[-len(new) :])))
    home.balance()
    assert read == []
    home.submit(2)
    home.balance()
    assert len(read) == 2


def test_the_queue_is_looked_through_in_chunks(home, monkeypatch):
    monkeypatch.setattr(waiting, "CHUNK", 7)
    monkeypatch.setattr(waiting, "SLICE", 3)
    home.submit(30)
    client = home.valkey.client
    client.zadd("deliver.workers", {"w": 1.0})
    for number in range(600):
        client.hset("deliver.held:w", str(number), "x" * 80)
    assert home.balance(2).unaccounted == 0


def test_large_entries_are_looked_at_a_few_at_a_time(home, monkeypatch):
    ids = home.submit(3)
    client = home.valkey.client
    ours = client.lrange("deliver", 0, -1)
    client.lpush("deliver", *(b'{"body":"' + b"x" * 900_000 + b'","headers":{"id":"%d"}}' % n for n in range(40)))
    client.lpush("deliver", *ours)
    client.ltrim("deliver", 0, -4)
    sizes = [len(found) for _, found in waiting.Lookout().ids()]
    assert sizes[0] <= waiting.SLICE + 3
    assert sum(sizes) == 43
    assert home.balance(2).unaccounted == 0
    assert len(ids) == 3
