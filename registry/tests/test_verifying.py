"""verify_registry names what was changed in the tables past the registry, and nothing else."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from threading import Event

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection
from django.utils import timezone

from registry import integrity, removal, tampering, verifying
from registry.models import Message, Posting, Run, StatusEvent, Unindexed, Unreadable
from registry.search import building
from registry.search import verifying as search
from registry.search.building import Overtaken
from registry.search.models import SEGMENT_ROWS, segment_of
from registry.statuses import Update, advance
from registry.tests.conftest import NOW, Column, a_row, all_at_once, keep, new_id

SEALED = ("sender_number", "message_body")


@pytest.fixture
def messages(db):
    """Four messages in a run of the index, of two senders, and one that waits."""
    start = timezone.now() - timedelta(hours=1)
    for number in range(5):
        row = a_row(
            id=new_id(start + number * timedelta(seconds=1)),
            sender_number=f"+4915200000{number % 2:03}",
            message_body=f"pump {number} failed again",
        )
        keep(row)
        if number == 3:
            building.index_new(timezone.now())
    return list(Message.objects.order_by("id"))


def verify(*arguments):
    """Return what is found, as (kind, name, what), and what was looked at."""
    out, code = StringIO(), 0
    try:
        call_command("verify_registry", "--json", *arguments, stdout=out)
    except SystemExit as ended:
        code = ended.code
    document = json.loads(out.getvalue())
    found = [tuple(one.values()) for one in document["findings"]]
    assert code == (1 if found else 0)
    assert document["looked_at"]["bad"] == len(found)
    return found, document["looked_at"]


def findings(*arguments):
    return verify(*arguments)[0]


def named(found):
    return {(kind, name) for kind, name, _ in found}


def swap(one, other, columns):
    for name in columns:
        kept = Column(one, name).read(), Column(other, name).read()
        Column(one, name).write(b"-" * 16 if name == "uid" else kept[1])
        Column(other, name).write(kept[0])
        Column(one, name).write(kept[1])


def execute(sql, *values):
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        assert cursor.rowcount == 1


def test_an_untouched_table_is_clean(messages):
    advance(Update(messages[0].uid, "dispatched", NOW, ""), "worker/w1")
    advance(Update(messages[0].uid, "delivered", NOW, ""), "gateway/g1")
    assert verify() == ([], {"messages": 5, "runs": 1, "stale_runs": 0, "bad": 0})
    assert not Unreadable.objects.exists()


def test_an_empty_registry_is_clean(db):
    assert verify() == ([], {"messages": 0, "runs": 0, "stale_runs": 0, "bad": 0})
    assert findings("--since", "2026-01-01") == []


def test_two_rows_that_swapped_ids_and_texts_are_named_by_their_times_and_senders(messages):
    one, other = messages[:2]
    swap(one, other, ["uid", *SEALED])
    found = findings()
    for uid in map(str, (one.uid, other.uid)):
        assert ("message", uid, "received_at is not the time inside the id") in found
        assert ("message", uid, "sender_index is not that of the sender's number") in found


def test_swapped_ids_and_texts_of_one_sender_and_moment_are_missed_by_the_index(db):
    start = timezone.now()
    rows = [a_row(id=new_id(start), message_body=body) for body in ("north", "south")]
    keep(*rows)
    building.index_new(timezone.now())
    swap(*Message.objects.all(), ["uid", *SEALED])
    run = Run.objects.get()
    assert named(findings()) == {("run", str(run.pk))}


def test_swapped_texts_do_not_open(messages):
    one, other = messages[:2]
    swap(one, other, ["message_body"])
    said = "message_body does not open: it was changed, or belongs to another row or column"
    assert findings() == [("message", str(row.uid), said) for row in (one, other)]


def test_a_flipped_bit_is_named(messages):
    blob = bytearray(Column(messages[4], "sender_number").read())
    blob[20] ^= 1
    Column(messages[4], "sender_number").write(bytes(blob))
    assert named(findings()) == {("message", str(messages[4].uid))}


def test_a_missing_key_is_named_as_such(messages):
    blob = Column(messages[4]).read()
    Column(messages[4]).write(blob[:2] + (77).to_bytes(4) + blob[6:])
    said = "message_body is sealed with a key that is not in the key ring"
    assert findings() == [("message", str(messages[4].uid), said)]


@pytest.mark.parametrize("row", [0, 4])
def test_an_edited_date_is_named(messages, row):
    edited = messages[row].received_at - timedelta(minutes=5)
    Message.objects.filter(pk=messages[row].pk).update(received_at=edited)
    assert ("message", str(messages[row].uid), "received_at is not the time inside the id") in findings()


def test_an_edited_sender_index_is_named(messages):
    Message.objects.filter(pk=messages[4].pk).update(sender_index=bytes(8))
    assert findings() == [("message", str(messages[4].uid), "sender_index is not that of the sender's number")]


@pytest.mark.parametrize("how", ["edited", "no step", "both ends", "unheard of"])
def test_a_status_that_its_steps_do_not_bear_out_is_named(messages, how):
    message = messages[4]
    advance(Update(message.uid, "delivered", NOW, ""), "gateway/g1")
    if how == "edited":
        Message.objects.filter(pk=message.pk).update(status="registered")
    elif how == "no step":
        StatusEvent.objects.all().delete()
    elif how == "both ends":
        StatusEvent.objects.create(message=message, status="failed", at=NOW)
    else:
        StatusEvent.objects.update(status="lost")
        Message.objects.filter(pk=message.pk).update(status="lost")
    assert findings() == [("message", str(message.uid), "status does not follow from the recorded steps")]


def test_a_dropped_list_is_named(messages):
    Posting.objects.filter(pk=Posting.objects.first().pk).delete()
    assert findings() == [("run", str(Run.objects.get().pk), "1 of its lists are missing")]


def test_a_changed_list_is_named(messages):
    one, other = Posting.objects.all()[:2]
    Posting.objects.filter(pk=one.pk).update(sealed=other.sealed)
    assert findings() == [("run", str(Run.objects.get().pk), "1 of its lists do not open: they were changed or moved")]


def test_a_list_that_belongs_to_nothing_is_named(messages):
    run = Run.objects.get()
    Posting.objects.create(locator=run.pk.to_bytes(4) + b"somebody", sealed=Posting.objects.first().sealed)
    assert findings() == [("run", str(run.pk), "1 of its lists belong to none of its messages")]


def test_a_dropped_run_is_named_with_its_lists_and_messages(messages):
    run = Run.objects.get().pk
    Run.objects.all().delete()
    lists = Posting.objects.count()
    said = "is in none of the search index's places instead of one"
    assert findings() == [
        *(("message", str(row.uid), said) for row in messages[:4]),
        ("run", str(run), f"does not exist, and has {lists} lists"),
    ]


def set_members(*row_ids):
    numbers = b"".join((row_id % SEGMENT_ROWS).to_bytes(2) for row_id in row_ids)
    Run.objects.update(members=len(row_ids).to_bytes(4) + numbers.ljust(8, b"\0"), messages=len(row_ids))


def test_a_message_taken_out_of_a_run_is_named(messages):
    set_members(*(row.pk for row in messages[1:4]))
    found = findings()
    assert ("message", str(messages[0].uid), "is in none of the search index's places instead of one") in found
    assert any(kind == "run" and what.startswith("its manifest does not fit") for kind, _, what in found)


def test_a_message_put_into_a_second_place_is_named(messages):
    Unindexed.objects.create(message_id=messages[0].pk)
    said = "is in 2 of the search index's places instead of one"
    assert findings() == [("message", str(messages[0].uid), said)]


def test_damaged_members_are_named(messages):
    Run.objects.update(members=Run.objects.get().members[:-1][:5])
    assert findings() == [("run", str(Run.objects.get().pk), "the list of its messages is damaged")]


def test_a_run_that_hides_from_a_range_of_dates_is_named(messages):
    Run.objects.update(last_received=NOW - timedelta(days=900))
    assert findings() == [("run", str(Run.objects.get().pk), "it does not say when its messages were received")]


def test_a_deleted_message_is_missed_by_its_run(messages):
    execute("DELETE FROM registry_message WHERE id = %s", messages[2].pk)
    said = f"1 of its messages are gone: rows {messages[2].pk}"
    assert findings() == [("run", str(Run.objects.get().pk), said)]


def test_a_deleted_message_is_missed_by_what_waits_for_the_index(messages):
    execute("DELETE FROM registry_message WHERE id = %s", messages[4].pk)
    assert findings() == [("row", str(messages[4].pk), "waits to be indexed and does not exist")]


def test_a_run_of_an_index_key_that_is_gone_is_named(messages):
    Run.objects.update(key_id=9)
    said = "it was made with index key 9, which is not in the key ring"
    assert findings() == [("run", str(Run.objects.get().pk), said)]


def test_a_stale_run_is_left_to_whoever_makes_it_anew(messages):
    execute("DELETE FROM registry_message WHERE id = %s", messages[2].pk)
    Run.objects.update(stale=True)
    found, looked_at = verify()
    assert (found, looked_at["stale_runs"]) == ([], 1)
    building.index_new(timezone.now())
    assert verify() == ([], {"messages": 4, "runs": 2, "stale_runs": 0, "bad": 0})


def test_since_looks_at_the_segments_from_then_on(messages):
    later = a_row(id=new_id(timezone.now()))
    later.pk = (segment_of(messages[4].pk) + 1) * SEGMENT_ROWS + 7
    later.save(force_insert=True)
    for row in (messages[4], later):
        Column(row).write(b"bad")
    tomorrow = (timezone.now() + timedelta(days=1)).isoformat()
    assert findings("--since", tomorrow) == []
    assert {name for _, name in named(findings("--since", later.received_at.isoformat()))} == {str(later.uid)}


def test_many_pages_are_read_to_the_end(messages, monkeypatch):
    monkeypatch.setattr(integrity, "PAGE", 2)
    Column(messages[4]).write(b"bad")
    assert named(findings()) == {("message", str(messages[4].uid))}


@pytest.fixture
def while_it_looks(monkeypatch):
    """Have something happen after the messages were read and before the index is."""

    def arrange(happens):
        real = verifying._runs

        def runs(*arguments):
            happens()
            return real(*arguments)

        monkeypatch.setattr(verifying, "_runs", runs)

    return arrange


def test_what_arrives_and_is_indexed_meanwhile_is_no_alarm(messages, while_it_looks):
    def arrive():
        keep(a_row(id=new_id()))
        building.index_new(timezone.now())
        keep(a_row(id=new_id()))

    while_it_looks(arrive)
    assert findings() == []


def test_runs_made_anew_meanwhile_are_no_alarm(messages, while_it_looks):
    while_it_looks(lambda: building.rebuild(Run.objects.get().segment, timezone.now()))
    assert findings() == []


def test_a_run_made_anew_while_its_lists_are_read_is_no_alarm(messages, monkeypatch):
    real = search._of_lists

    def of_lists(*arguments):
        building.rebuild(Run.objects.get().segment, timezone.now())
        return real(*arguments)

    monkeypatch.setattr(search, "_of_lists", of_lists)
    assert findings() == []


def test_a_status_that_changes_meanwhile_is_no_alarm(messages, monkeypatch):
    real = integrity._steps

    def steps(row_ids):
        monkeypatch.setattr(integrity, "_steps", real)
        advance(Update(messages[0].uid, "delivered", NOW, ""), "gateway/g1")
        return real(row_ids)

    monkeypatch.setattr(integrity, "_steps", steps)
    assert findings() == []


def test_people_read_lines_without_any_text_or_number(messages):
    swap(*messages[:2], ["uid", *SEALED])
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("verify_registry", stdout=out)
    said = out.getvalue()
    assert f"message {messages[0].uid}: received_at is not the time inside the id" in said
    assert "Looked at 5 messages and 1 runs" in said
    assert not {"pump", "+49152", "failed"} & set(said.split())
    assert "+49152" not in said


def test_what_is_found_is_kept_once(messages):
    Column(messages[4]).write(b"bad")
    for _ in range(2):
        findings()
    one = Unreadable.objects.get()
    assert (one.uid, one.column, one.reason, one.seen_by) == (
        messages[4].uid,
        "message_body",
        tampering.MALFORMED,
        "verify_registry",
    )


def test_the_index_job_keeps_what_it_cannot_open(messages):
    Column(messages[4]).write(b"bad")
    building.index_new(timezone.now())
    assert Unreadable.objects.get().seen_by == "index"
    assert named(findings()) == {("message", str(messages[4].uid))}


def test_nothing_is_bad_while_messages_come_take_steps_are_indexed_and_go(shared_database, monkeypatch):
    monkeypatch.setattr(building, "MANY_RUNS", 3)
    monkeypatch.setattr(integrity, "PAGE", 20)
    over = Event()

    def arrive():
        for _ in range(25):
            keep(*(a_row(id=new_id()) for _ in range(8)))

    def take_steps_and_go():
        while not over.is_set():
            rows = list(Message.objects.order_by("?")[:10])
            updates = [Update(row.uid, status, NOW, "") for row in rows for status in ("dispatched", "delivered")]
            Message.objects.advance(updates, "gateway/g1")
            removal.remove([row.pk for row in rows[:4]], "purge:1", removal.PURGED, removal.Tally())

    def index():
        while not over.is_set():
            try:
                building.index_new(timezone.now())
            except (Overtaken, OperationalError):
                # As the jobs process does: again at the next look.
                pass

    def look():
        try:
            arriving, looks = ThreadPoolExecutor(1).submit(work_alone, arrive), 0
            while not arriving.done() or looks < 3:
                assert [str(found) for found in verifying.verify(None, verifying.Tally(), lambda done: None)] == []
                looks += 1
            arriving.result()
        finally:
            over.set()

    all_at_once(lambda number: [look, take_steps_and_go, index][number](), 3)
    assert findings() == []


def work_alone(work):
    try:
        work()
    finally:
        connection.close()
