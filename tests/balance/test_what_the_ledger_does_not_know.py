"""The registry may have more than the ledger, and lines may come late: neither is an alarm, and neither hides one."""

import time

from ingest.ledger import Ledger, Line
from registry.models import Message
from tests.balance.conftest import as_ids
from wire.ids import new_id, received_at


def lose_ledger(home):
    """Do what a kill between the answer of Redis and the line does."""
    for file in home.folder.glob("*.log"):
        file.unlink()


def is_settled(home):
    return home.sheet.books.open_ranges(1 << 47, 0) == []


def test_messages_the_ledger_does_not_have_are_added_to_it(home):
    home.submit(3)
    lose_ledger(home)
    known = home.submit(2)
    home.deliver()
    report = home.balance()
    assert (report.unaccounted, report.complete) == (0, True)
    assert is_settled(home)
    assert {line.split()[1] for file in home.folder.glob("*.log") for line in file.read_text().splitlines()} == set(
        known
    )


def test_a_surplus_hides_nothing_that_is_missing(home):
    home.submit(3)
    lose_ledger(home)
    lost, *_ = home.submit(3)
    home.deliver()
    Message.objects.filter(uid__in=as_ids(lost)).delete()
    home.balance(2)
    assert home.missing == {lost}


def test_a_clients_surplus_is_not_anothers(home):
    home.submit(2, client="dave")
    lose_ledger(home)
    lost, *_ = home.submit(2, client="alice")
    home.deliver()
    Message.objects.filter(uid__in=as_ids(lost)).delete()
    home.balance(2)
    assert home.missing == {lost}


def test_a_late_line_opens_its_minute_again(home):
    home.submit(3)
    (file,) = home.folder.glob("*.log")
    whole = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(whole[0])
    home.deliver()
    home.balance()
    assert is_settled(home)
    with file.open("ab") as late:
        late.writelines(whole[1:])
    home.balance()
    assert is_settled(home)
    assert home.balance().unaccounted == 0


def test_a_late_line_of_a_lost_message_is_still_found(home):
    home.submit(1)
    home.deliver()
    home.balance()
    lost = new_id(time.time())
    Ledger(home.folder).record([Line(new_id(time.time()), lost, 1, "alice")])
    assert home.balance(2).unaccounted == 1
    assert home.missing == {str(lost)}


def test_what_is_written_twice_is_settled_all_the_same(home):
    home.submit(3)
    (file,) = home.folder.glob("*.log")
    file.write_bytes(file.read_bytes() * 2)
    home.deliver()
    report = home.balance(2)
    assert (report.unaccounted, report.complete, is_settled(home)) == (0, True, True)


def test_an_ingest_whose_clock_was_ahead_does_not_wait_for_it(home):
    Ledger(home.folder).record([Line(new_id(time.time()), lost := new_id(time.time() + 1e6), 1, "alice")])
    home.balance(2)
    assert home.missing == {str(lost)}


def test_what_is_arriving_just_now_is_left_for_the_next_pass(home):
    (lost,) = as_ids(*home.submit(1))
    home.valkey.client.flushall()
    for _ in range(3):
        assert home.sheet.run(received_at(lost)).unaccounted == 0
    assert home.balance(2).unaccounted == 1


def test_two_ingests_of_one_name_and_two_homes_raise_no_alarm(home, make_home, tmp_path):
    other = make_home("ingest")
    other.folder = tmp_path / "another home"
    home.submit(3)
    other.submit(3)
    home.deliver()
    assert (home.balance(2).unaccounted, other.balance(2).unaccounted) == (0, 0)
    assert is_settled(home)
    assert is_settled(other)
    Ledger(other.folder).record([Line(new_id(time.time()), lost := new_id(time.time()), 1, "alice")])
    assert other.balance(2).unaccounted == 1
    assert other.missing == {str(lost)}
