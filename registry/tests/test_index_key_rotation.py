"""A rotated index key: searches find everything all the while, and `reindex` brings the index under the new one."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from certs_app.audit import Actor
from registry import blind_index, canaries, keyring, reindexing
from registry.key_document import INDEX
from registry.key_steps import Keys
from registry.keyring import ring
from registry.models import Checkpoint, Message, Run, Unindexed
from registry.search import building, lookup, terms
from registry.tests.conftest import SENDER, Column, a_row, all_at_once, keep, until

pytestmark = pytest.mark.django_db
OTHER = "+4915200000001"


@pytest.fixture
def message(key_file):
    """A message whose words are in a run, under keys that have their canaries."""
    canaries.make_missing(timezone.now())
    row = a_row(message_body="pump seven failed")
    keep(row)
    building.index_new(timezone.now())
    return row


def rotate():
    keys = Keys(Actor.operator(), timezone.now())
    keys.promote(INDEX, keys.add(INDEX))
    until(lambda: ring().index.primary == 2)


def reindex(*arguments):
    out = StringIO()
    call_command("reindex", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def from_sender():
    return [message.uid for message in Message.objects.from_sender(SENDER).order_by("id")]


def with_word(word):
    hits = lookup.steps([*terms.of_words([word])])
    return [row_id for step in hits for row_id in step.descending() if row_id not in step.waiting]


def test_old_and_new_rows_are_found_before_during_and_after(message):
    rotate()
    new = a_row(message_body="pump eight")
    keep(new)
    building.index_new(timezone.now())
    old_index, new_index = (Column(one, "sender_index").read() for one in Message.objects.order_by("id"))
    assert old_index != new_index
    assert from_sender() == [message.uid, new.uid]
    assert len(with_word("pump")) == 2
    reindex()
    assert set(Message.objects.values_list("sender_index", flat=True)) == {blind_index.sender(SENDER)}
    assert set(Run.objects.values_list("key_id", flat=True)) == {2}
    assert from_sender() == [message.uid, new.uid]
    assert len(with_word("pump")) == 2


def test_a_row_under_a_staged_key_is_found_as_well(message):
    """Another process may have noticed the promotion already."""
    Keys(Actor.operator(), timezone.now()).add(INDEX)
    until(lambda: 2 in ring().index.keys)
    Message.objects.update(sender_index=blind_index.value(SENDER, ring(), 2))
    assert from_sender() == [message.uid]


def test_a_run_of_older_rules_is_made_anew(message):
    Run.objects.update(version=0)
    assert with_word("pump") == []
    assert "1 segments made anew" in reindex()
    assert len(with_word("pump")) == 1


def test_what_is_up_to_date_is_left_alone_unless_all_is_asked_for(message):
    made = Run.objects.get().made_at
    assert "0 segments made anew" in reindex()
    assert Run.objects.get().made_at == made
    assert "1 segments made anew" in reindex("--all")
    assert Run.objects.get().made_at > made


def test_a_message_that_the_index_lost_is_found_after_all_is_made_anew(message):
    Run.objects.all().delete()
    assert with_word("pump") == []
    reindex("--all")
    assert Unindexed.objects.count() == 1, "found by comparing it"
    building.index_new(timezone.now())
    assert len(with_word("pump")) == 1


def test_a_dry_run_changes_nothing(message):
    rotate()
    said = reindex("--dry-run")
    assert "1 segments" in said
    assert "Nothing was changed" in said
    assert Run.objects.get().key_id == 1
    assert not Checkpoint.objects.exists()


def test_a_number_that_cannot_be_opened_is_counted_and_left_alone(message):
    bad = Message.objects.get()
    Column(bad, "sender_number").write(Column(bad, "sender_number").read()[:-1] + b"\0")
    before = Column(bad, "sender_index").read()
    rotate()
    assert "1 cannot be opened" in reindex()
    assert Column(bad, "sender_index").read() == before


def test_left_unfinished_it_goes_on_where_it_was(message):
    for _ in range(2):
        keep(a_row(sender_number=OTHER))
    rotate()
    first, second, third = Message.objects.order_by("id")
    begun = reindexing.begin("reindex senders to 2", timezone.now())
    Checkpoint.objects.filter(pk=begun.pk).update(last_id=first.pk)
    reindex()
    wanted = [blind_index.value(SENDER, ring(), 1), *[blind_index.sender(OTHER)] * 2]
    assert [Column(one, "sender_index").read() for one in (first, second, third)] == wanted
    reindex()
    assert Column(first, "sender_index").read() == blind_index.sender(SENDER), "a finished job begins anew"


def test_all_left_unfinished_goes_on_where_it_was(message):
    made = Run.objects.get().made_at
    begun = reindexing.begin("reindex all to 1", timezone.now())
    Checkpoint.objects.filter(pk=begun.pk).update(last_id=Run.objects.get().segment + 1)
    reindex("--all")
    assert Run.objects.get().made_at == made
    reindex("--all")
    assert Run.objects.get().made_at > made


def test_messages_that_come_meanwhile_are_waited_for(shared_database, key_file):
    keep(a_row(message_body="pump one"))
    building.index_new(timezone.now())
    rotate()

    def work(number):
        if number == 0:
            return reindex()
        for place in range(5):
            keep(a_row(message_body=f"pump {number} {place}"))
        try:
            building.index_new(timezone.now() + timedelta(seconds=number))
        except building.Overtaken:
            pass  # the next look of the jobs process
        return ""

    try:
        all_at_once(work, threads=3)
    except CommandError as error:
        assert error.returncode == 3  # noqa: PT017
    building.index_new(timezone.now())
    reindex()
    assert set(Run.objects.values_list("key_id", flat=True)) == {2}
    assert not Unindexed.objects.exists()
    assert len(with_word("pump")) == 11
    assert keyring.document().index[2].state == "primary"
