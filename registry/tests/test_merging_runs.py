"""A search looks into every run of a segment, so a full segment ends with one."""

import contextlib
from array import array
from io import StringIO

import pytest
from django.core.management import call_command
from django.utils import timezone

from registry import removal
from registry.models import Message, Run, Unindexed
from registry.search import building, lookup, postings, terms
from registry.search.models import SEGMENT_ROWS
from registry.tests.conftest import a_row, keep


def index(*row_ids):
    """Store messages under these ids and index what waits; return how many runs each segment has then."""
    rows = [a_row() for _ in row_ids]
    for row, row_id in zip(rows, row_ids, strict=True):
        row.pk = row_id
    keep(*rows)
    building.index_new(timezone.now())
    segments = list(Run.objects.order_by("segment").values_list("segment", flat=True))
    return {segment: segments.count(segment) for segment in segments}


def test_the_newest_segment_keeps_its_runs(db):
    index(1)
    assert index(2) == {0: 2}


def test_a_segment_whose_end_comes_with_the_next_ones_beginning_becomes_one_run(db):
    index(SEGMENT_ROWS - 2)
    assert index(SEGMENT_ROWS - 1, SEGMENT_ROWS, SEGMENT_ROWS + 1) == {0: 1, 1: 1}


def test_a_segment_that_was_full_before_the_next_one_began_becomes_one_run(db):
    index(SEGMENT_ROWS - 2)
    index(SEGMENT_ROWS - 1)
    assert index(2 * SEGMENT_ROWS) == {0: 1, 2: 1}


def test_a_late_message_of_an_old_segment_is_merged_at_once(db):
    index(1)
    index(SEGMENT_ROWS)
    assert index(2) == {0: 1, 1: 1}


# -- texts of nothing but different words, which would make lists without end


@pytest.fixture
def few_lists(db, monkeypatch):
    """Room in a run for two messages of ten words: a number has six lists, which they share."""
    monkeypatch.setattr(building, "MOST_LISTS", 26)


def words_of(number):
    return " ".join(f"word{number}x{position}" for position in range(10))


def store(*row_ids):
    rows = [a_row(message_body=words_of(row_id)) for row_id in row_ids]
    for row, row_id in zip(rows, row_ids, strict=True):
        row.pk = row_id
    keep(*rows)


def look():
    building.index_new(timezone.now())
    return [run.messages for run in Run.objects.order_by("id")]


def found():
    """Look for one word of every message, and return which are found by their runs."""
    hits = set()
    for row_id in Message.objects.values_list("id", flat=True):
        for step in lookup.steps(terms.of_body(words_of(row_id).split()[3])):
            hits |= {*step.descending()} - {*step.waiting}
    return hits


def test_what_waits_is_indexed_by_and_by(few_lists):
    store(1, 2, 3, 4, 5)
    assert [look(), look(), look()] == [[2], [2, 2], [2, 2, 1]]
    assert found() == {1, 2, 3, 4, 5}
    assert not Unindexed.objects.exists()


def test_a_full_segment_gets_as_few_runs_as_have_room_and_is_left_alone_then(few_lists):
    for row_id in range(1, 6):
        store(row_id)
        look()
    assert look() == [1] * 5
    store(SEGMENT_ROWS)
    assert look() == [1] * 6, "no two of them fit: 16 lists each"
    before = list(Run.objects.values_list("id", flat=True))
    look()
    assert list(Run.objects.values_list("id", flat=True)) == before
    assert found() == {1, 2, 3, 4, 5, SEGMENT_ROWS}


def test_runs_that_fit_together_become_one(few_lists, monkeypatch):
    for row_id in range(1, 6):
        store(row_id)
        look()
    monkeypatch.setattr(building, "MOST_LISTS", 32)
    store(SEGMENT_ROWS)
    assert sorted(look()) == [1, 1, 2, 2]
    assert found() == {1, 2, 3, 4, 5, SEGMENT_ROWS}
    call_command("verify_registry", stdout=StringIO())


def test_after_a_removal_a_large_segment_is_made_anew_in_parts(few_lists):
    store(1, 2, 3, 4, 5)
    for _ in range(3):
        look()
    removal.remove([2, 5], "purge:1", removal.PURGED, removal.Tally())
    assert Run.objects.filter(stale=True).count() == 3
    assert look() == [1, 2]
    assert not Run.objects.filter(stale=True).exists()
    assert found() == {1, 3, 4}
    call_command("verify_registry", stdout=StringIO())


def test_a_message_that_a_large_segment_lost_waits_again(few_lists):
    store(1, 2, 3, 4)
    look()
    look()
    lost = a_row(message_body=words_of(9))
    lost.pk = 9
    lost.save(force_insert=True)
    building.rebuild(0, timezone.now())
    assert [one.message_id for one in Unindexed.objects.all()] == [9]
    look()
    assert found() == {1, 2, 3, 4, 9}


@pytest.mark.parametrize("large", [False, True])
def test_what_is_indexed_while_a_segment_is_made_anew_is_in_one_run(few_lists, monkeypatch, large):
    """Between the look at what is there and at what waits, another process makes a run."""
    store(*range(1, 5 if large else 3))
    look()
    look()
    store(7)
    genuine = building._waiting_in

    def overtaken(segment):
        monkeypatch.setattr(building, "_waiting_in", genuine)
        look()
        return genuine(segment)

    monkeypatch.setattr(building, "_waiting_in", overtaken)
    with contextlib.suppress(building.Overtaken):
        building.rebuild(0, timezone.now())
    look()
    call_command("verify_registry", stdout=StringIO())
    members = [number for run in Run.objects.all() for number in postings.decode(bytes(run.members)).descending()]
    assert sorted(members) == sorted(Message.objects.values_list("id", flat=True))


# -- an index that was changed past the registry


@pytest.fixture
def large(few_lists):
    store(1, 2, 3, 4)
    look()
    look()


def changed(run, numbers=None):
    """Have a run say that it holds other messages."""
    members = b"odd" if numbers is None else postings.encode(array("H", numbers), len(numbers))
    Run.objects.filter(pk=run).update(members=members, stale=True)


def in_runs():
    members = [number for run in Run.objects.all() for number in postings.decode(bytes(run.members)).descending()]
    return sorted(members)


def test_a_run_that_does_not_say_what_is_in_it_stops_nobody(large):
    changed(Run.objects.first().pk)
    store(SEGMENT_ROWS + 5)
    for _ in range(3):
        look()
    assert found() == {1, 2, 3, 4, SEGMENT_ROWS + 5}
    call_command("verify_registry", stdout=StringIO())


def test_a_message_in_two_runs_ends_in_one(large):
    changed(Run.objects.last().pk, [2, 3, 4])
    building.rebuild(0, timezone.now())
    assert in_runs() == [1, 2, 3, 4]
    call_command("verify_registry", stdout=StringIO())


def test_a_message_in_a_run_that_is_made_anew_and_in_one_that_is_not_ends_in_one(large):
    changed(Run.objects.last().pk, [2, 3, 4])
    look()
    assert in_runs() == [1, 2, 3, 4]
    call_command("verify_registry", stdout=StringIO())


@pytest.mark.parametrize("made_anew", [look, lambda: building.rebuild(0, timezone.now())])
def test_a_message_in_a_run_that_waits_as_well_ends_in_the_run(large, made_anew):
    Unindexed.objects.create(message_id=3)
    Run.objects.update(stale=True)
    made_anew()
    assert not Unindexed.objects.exists()
    assert in_runs() == [1, 2, 3, 4]
    call_command("verify_registry", stdout=StringIO())


def test_what_is_removed_while_lost_messages_are_looked_for_does_not_wait(large, monkeypatch):
    store(7)
    genuine = building._waiting_in

    def overtaken(segment):
        monkeypatch.setattr(building, "_waiting_in", genuine)
        removal.remove([7], "purge:1", removal.PURGED, removal.Tally())
        return genuine(segment)

    monkeypatch.setattr(building, "_waiting_in", overtaken)
    building._have_lost_wait(0)
    assert not Unindexed.objects.exists()


def test_a_large_segment_is_not_made_anew_for_every_small_run(large, monkeypatch):
    monkeypatch.setattr(building, "MANY_RUNS", 3)
    full = set(Run.objects.values_list("id", flat=True))
    for row_id in (5, 6, 7):
        store(row_id)
        look()
    assert full <= set(Run.objects.values_list("id", flat=True))
    assert found() == {1, 2, 3, 4, 5, 6, 7}


def test_a_lost_index_is_made_again_in_runs_of_bounded_size(large):
    Run.objects.all().delete()
    building.rebuild(0, timezone.now())
    assert [look(), look()] == [[2], [2, 2]]
    assert found() == {1, 2, 3, 4}
