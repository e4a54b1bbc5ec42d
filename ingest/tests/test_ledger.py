"""What was accepted is written down before the answer, whatever the disk, the clock and the process do."""

import contextlib
import errno
import os
import re
import stat
import sys
from uuid import UUID

import pytest

from ingest import ledger, metrics
from ingest.books import Books
from ingest.ledger import Ledger, Line, NotWritten
from ingest.tests.conftest import Call
from ingest.tests.malformed import GOOD, but
from wire.ids import following, new_id
from wire.sums import Sum

NOON = 1_780_000_000.0 // 3600 * 3600
NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d\.[0-9a-f]{8}\.log")


@pytest.fixture
def folder(settings, tmp_path):
    settings.LEDGER_DIR = tmp_path / "ledger"
    ledger.ledger.cache_clear()
    yield settings.LEDGER_DIR
    ledger.ledger.cache_clear()


def written(folder):
    """Read every line of every file, the oldest file first, in words."""
    files = sorted(folder.glob("*.log"), key=lambda file: file.stat().st_mtime_ns)
    return [line.split() for file in files for line in file.read_text().splitlines()]


def lines(folder):
    """Read every line of every file: (envelope, first id, count, client)."""
    return [(UUID(one[0]), UUID(one[1]), int(one[2]), one[3]) for one in written(folder)]


def a_line(at=NOON, **changes):
    return Line(**{"envelope": new_id(at), "first": new_id(at), "messages": 1, "client": "alice", **changes})


def counted(folder):
    """Return how many messages the books find, by the start of their minute."""
    with contextlib.closing(Books(folder, None)) as books:
        books.take_in()
        found = books.all_ranges()
        return {one.start: sum(total.count for total in books.slots(one).values()) for one in found}


@pytest.fixture
def full(monkeypatch):
    """Let the disk be full: of what is written, it takes `room` bytes."""

    def fill(room=0):
        written = os.write

        def write(descriptor, data):
            if not room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return written(descriptor, data[:room])

        monkeypatch.setattr(ledger.os, "write", write)
        return lambda: monkeypatch.setattr(ledger.os, "write", written)

    return fill


@pytest.mark.parametrize("door", ["accept_path", "drf_view"])
def test_an_accepted_message_is_in_the_ledger_before_the_answer(request, people, valkey, folder, door):
    (answer,) = request.getfixturevalue(door)([Call(body=but())], people.peer("alice"))
    assert answer.status == 202
    ((_, first, count, client),) = lines(folder)
    assert (str(first), count, client) == (answer.json()["id"], 1, "alice")


def test_a_batch_is_one_line_for_each_envelope(people, valkey, folder, accept_path):
    body = {"messages": [but(message_body=str(n)) for n in range(250)]}
    (answer,) = accept_path([Call("/submit/batch", body=body)], people.peer("alice"))
    ids = [UUID(result["id"]) for result in answer.json()["results"]]
    found = lines(folder)
    assert [count for _, _, count, _ in found] == [100, 100, 50]
    assert [following(first, n) for _, first, count, _ in found for n in range(count)] == ids
    assert len({envelope for envelope, *_ in found}) == 3


def test_requests_that_share_envelopes_are_told_apart(people, valkey, folder, accept_path):
    calls = [Call("/submit/batch", body={"messages": [GOOD] * n}) for n in (70, 1, 130, 40)]
    answers = accept_path(calls, people.peer("alice"))
    submitted = {result["id"] for answer in answers for result in answer.json()["results"]}
    assert {str(following(first, n)) for _, first, count, _ in lines(folder) for n in range(count)} == submitted
    assert sum(count for _, _, count, _ in lines(folder)) == 241


def test_what_redis_did_not_take_is_not_in_it(people, own_valkey, folder, accept_path):
    accept_path([Call(body=but())], people.peer("alice"))
    own_valkey.stop()
    (refused,) = accept_path([Call(body=but())], people.peer("alice"))
    assert refused.status == 503
    assert len(lines(folder)) == 1


@pytest.mark.parametrize("door", ["accept_path", "drf_view"])
def test_a_replay_is_written_down_as_one_and_adds_nothing(request, people, valkey, folder, door):
    call = Call(body=but(), headers=(("Idempotency-Key", "k"),))
    go = request.getfixturevalue(door)
    go([call], people.peer("alice"))
    (again,) = go([call], people.peer("alice"))
    assert again.headers["idempotency-replayed"] == "true"
    first, second = written(folder)
    assert second == [*first, "replay"]
    assert sum(counted(folder).values()) == 1


def test_a_replay_is_written_into_the_hour_in_which_it_came(folder):
    Ledger(folder).record([a_line(NOON - 7200, replayed_ms=int(NOON * 1000))])
    (file,) = folder.glob("*.log")
    assert file.name.startswith(ledger.hour_name(int(NOON) // 3600))


def test_what_redis_took_without_an_answer_is_in_it_once_the_client_has_its_202(
    people, own_valkey, folder, accept_path, settings
):
    # Redis knows the script already.
    accept_path([Call(body=but())], people.peer("alice"))
    call = Call(body=but(), headers=(("Idempotency-Key", "k"),))
    # The commit gets through; its answer comes too late.
    settings.WAIT_REPLICAS, settings.WAIT_REPLICAS_MS = 1, 5000
    (first,) = accept_path([call], people.peer("alice"))
    assert (first.status, own_valkey.client.llen("deliver")) == (503, 2)
    assert len(written(folder)) == 1
    settings.WAIT_REPLICAS = 0
    (again,) = accept_path([call], people.peer("alice"))
    assert (again.status, again.headers["idempotency-replayed"]) == (202, "true")
    _, (_, uid, *rest) = written(folder)
    assert (uid, rest) == (again.json()["id"], ["1", "alice", "replay"])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no mode bits")
def test_nobody_else_reads_it(people, valkey, folder, accept_path):
    accept_path([Call(body=but())], people.peer("alice"))
    (file,) = folder.iterdir()
    assert NAME.fullmatch(file.name)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_an_hour_has_a_file_of_its_own(folder):
    Ledger(folder).record([a_line(NOON - 1), a_line(NOON), a_line(NOON + 1)])
    assert [len(file.read_text().splitlines()) for file in sorted(folder.glob("*.log"))] == [1, 2]


def test_files_of_past_hours_are_let_go(folder):
    written = Ledger(folder)
    for hour in range(5):
        written.record([a_line(NOON + 3600 * hour)])
        written.sync()
    assert len(written._files) == 2
    written.record([a_line(NOON)])
    assert len(list(folder.glob("*.log"))) == 6
    assert sum(counted(folder).values()) == 6


def test_a_clock_that_goes_back_writes_into_its_own_hour(folder):
    written = Ledger(folder)
    for at in (NOON, NOON - 7200, NOON):
        written.record([a_line(at)])
    assert set(counted(folder)) == {int((NOON - 7200) * 1000), int(NOON * 1000)}


def test_a_line_that_a_kill_cut_off_spoils_no_other(folder):
    Ledger(folder).record([a_line(), a_line(messages=3)])
    (file,) = folder.glob("*.log")
    with file.open("ab") as opened:
        opened.write(bytes(a_line())[:50])
    Ledger(folder).record([a_line(messages=5)])
    assert counted(folder) == {int(NOON * 1000): 9}


def test_a_line_is_taken_in_once_it_is_whole(folder):
    Ledger(folder).record([a_line()])
    (file,) = folder.glob("*.log")
    half = bytes(a_line())
    with contextlib.closing(Books(folder, None)) as books:
        for part in (half[:60], half[60:]):
            with file.open("ab") as opened:
                opened.write(part)
            books.take_in()
            books.take_in()
        (one,) = books.all_ranges()
        assert books.slots(one)["alice"].count == 2


@pytest.mark.parametrize("damage", [b"\0" * 200 + b"\n", b"x" * 200_000 + b"\n", b"a b c d\n", b"\n", b"\xff \xfe\n"])
def test_a_damaged_line_is_reported_and_passed_over(folder, caplog, damage):
    Ledger(folder).record([a_line()])
    (file,) = folder.glob("*.log")
    with file.open("ab") as opened:
        opened.write(damage + bytes(a_line()))
    assert counted(folder) == {int(NOON * 1000): 2}
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize("room", [0, 30])
def test_a_full_disk_costs_no_accepted_message_and_is_made_good(people, valkey, folder, accept_path, full, room):
    failures = metrics.LEDGER_FAILURES._value.get()
    accept_path([Call(body=but())], people.peer("alice"))
    empty = full(room)
    answers = accept_path([Call(body=but()) for _ in range(3)], people.peer("alice"))
    assert {answer.status for answer in answers} == {202}
    assert metrics.LEDGER_FAILURES._value.get() > failures
    with pytest.raises(NotWritten):
        ledger.check_writable()
    empty()
    ledger.ledger().sync()
    ledger.check_writable()
    assert sum(counted(folder).values()) == 4
    assert len(set(lines(folder))) == len(lines(folder)) == 4


def test_a_disk_that_stays_full_takes_no_memory(folder, full, caplog):
    written = Ledger(folder)
    full()
    for _ in range(3):
        written.record([a_line() for _ in range(5000)])
    assert sum(map(len, written._waiting.values())) <= ledger.MAX_WAITING_BYTES
    assert "given up" in caplog.text
    assert caplog.text.count("cannot be written") == 1


def test_the_order_of_lines_does_not_matter(folder, tmp_path):
    some = [a_line(NOON + n) for n in range(20)]
    Ledger(folder).record(some)
    other = tmp_path / "other"
    for line in reversed(some):
        Ledger(other).record([line])
    with contextlib.closing(Books(folder, None)) as one, contextlib.closing(Books(other, None)) as two:
        one.take_in()
        two._database.execute("INSERT INTO hour SELECT ?, ?", (int(NOON) // 3600, one.key(int(NOON) // 3600)))
        two.take_in()
        (minute,) = one.all_ranges()
        assert one.slots(minute) == two.slots(minute)
        assert one.slots(minute)["alice"].count == 20
        assert one.slots(minute)["alice"] != Sum(20, 0)


@pytest.mark.parametrize("where", [0, 4096])
def test_damaged_books_are_made_anew_from_the_lines(folder, caplog, where):
    Ledger(folder).record([a_line(NOON + n, client=f"client{n}") for n in range(700)])
    file = folder / "balance.sqlite3"
    with contextlib.closing(Books(folder, file)) as books:
        books.take_in()
    content = file.read_bytes()
    file.write_bytes(content[:where] + b"\xff" * 8192 + content[where + 8192 :])
    with contextlib.closing(Books(folder, file)) as books:
        books.take_in()
        assert sum(total.count for one in books.all_ranges() for total in books.slots(one).values()) == 700
    assert "damaged" in caplog.text
    assert file.with_suffix(".damaged").exists()
