"""One person's messages are erased, wherever the registry has them, and nobody else's."""

import contextlib
import io
import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from certs_app import audit
from certs_app.models import AuditEvent
from registry import erasure
from registry.models import Message, Removed, Run, Unindexed
from registry.search import building, lookup, terms
from registry.tests.conftest import Column, a_message, a_row, keep, new_id

PERSON, OTHER = "+4915211112222", "+4915233334444"


@pytest.fixture
def messages(db):
    """Two of the person's messages in the search index, one that waits, and others' in both."""
    start = timezone.now() - timedelta(days=40)
    for number, sender in enumerate([PERSON, OTHER, PERSON]):
        keep(a_row(id=new_id(start + timedelta(days=number)), sender_number=sender, message_body=f"pump {number}"))
    building.index_new(timezone.now())
    keep(a_row(sender_number=PERSON, client="bob"), a_row(sender_number=OTHER))


def erase(monkeypatch, *arguments, number=PERSON):
    """Give the number on standard input; return what the command says, and its exit code."""
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{number}\n"))
    out = StringIO()
    try:
        call_command("erase", "--sender", "-", "--yes", "--json", *arguments, stdout=out)
        code = 0
    except SystemExit as ended:
        code = ended.code
    return json.loads(out.getvalue()), code


def senders():
    return {message.sender_number for message in Message.objects.all()}


def test_everything_of_one_sender_goes_and_nothing_else(messages, monkeypatch):
    said, code = erase(monkeypatch)
    assert (said["messages"], said["clients"], said["stale_segments"], code) == (3, {"alice": 2, "bob": 1}, 0, 0)
    assert Message.objects.count() == 2
    assert senders() == {OTHER}
    assert Removed.objects.count() == 3
    call_command("verify_registry", stdout=StringIO())


def test_the_search_index_is_made_anew_at_once(messages, monkeypatch):
    erase(monkeypatch)
    assert not Run.objects.filter(stale=True).exists()
    other = Message.objects.get(client="alice", pk__in=Unindexed.objects.values("message_id"))
    assert other.sender_number == OTHER, "what waited goes on waiting"
    step = next(lookup.steps({terms.Term(terms.LAST4, PERSON[-4:])}))
    assert len(step) == 0


def test_a_dry_run_counts_and_erases_nothing(messages, monkeypatch):
    said, _ = erase(monkeypatch, "--dry-run")
    assert (said["messages"], said["dry_run"], said["erasure"]) == (3, True, None)
    first = min(message.received_at for message in Message.objects.all())
    assert said["first_received"] == first.isoformat()
    assert Message.objects.count() == 5
    assert not AuditEvent.objects.filter(action=audit.ERASED).exists()


def test_the_audit_has_an_id_the_reason_and_counts_and_no_number(messages, monkeypatch):
    said, _ = erase(monkeypatch, "--reason", "request 2026-117")
    event = AuditEvent.objects.get(action=audit.ERASED)
    assert event.subject == said["erasure"]
    assert "3 message(s)" in event.detail
    assert "request 2026-117" in event.detail
    assert PERSON[3:] not in event.subject + event.detail
    assert set(Removed.objects.values_list("removal", flat=True)) == {said["erasure"]}


def test_an_erasure_that_finds_nothing_is_audited_too(messages, monkeypatch):
    said, code = erase(monkeypatch, number="+390612345678")
    assert (said["messages"], code) == (0, 0)
    assert AuditEvent.objects.get(action=audit.ERASED).detail.startswith("0 messages")


@pytest.mark.parametrize("number", ["+49 152 1111-2222", "+49 (0)152 11112222", " +49 (152) 1111/2222"])
def test_a_number_as_people_write_it_is_understood(messages, monkeypatch, number):
    assert erase(monkeypatch, number=number)[0]["messages"] == 3


@pytest.mark.parametrize("number", ["", "0152 11112222", "alice", "+7"])
def test_what_is_no_full_number_is_refused_unrepeated(messages, monkeypatch, number):
    with pytest.raises(CommandError, match="full number") as refused:
        erase(monkeypatch, number=number)
    assert not number or number not in str(refused.value)


@pytest.mark.parametrize("written", ["+49 152 1111 2222", "0152/1111-2222", "(152) 1111 2222"])
def test_a_reason_with_the_number_in_it_is_refused(messages, monkeypatch, written):
    with pytest.raises(CommandError, match="leave the number out"):
        erase(monkeypatch, "--reason", f"for {written}")
    assert Message.objects.count() == 5


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_yes_and_without_a_terminal_nothing_is_erased(messages, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(PERSON))
    with pytest.raises(CommandError, match="add --yes"):
        call_command("erase", "--sender", "-")
    assert Message.objects.count() == 5


@pytest.mark.parametrize(("answer", "left"), [("erase", 2), ("", 5), ("yes", 5)])
def test_at_a_terminal_it_says_how_many_and_asks(messages, monkeypatch, answer, left):
    monkeypatch.setattr("sys.stdin", _Terminal(f"{answer}\n"))
    err = StringIO()
    with contextlib.suppress(CommandError):
        call_command("erase", "--sender", PERSON, stdout=StringIO(), stderr=err)
    assert "3 message(s) of 2 client(s)" in err.getvalue()
    assert Message.objects.count() == left


def test_many_messages_of_one_sender_are_read_in_pages(messages, monkeypatch):
    monkeypatch.setattr(erasure, "_ROWS_AT_A_TIME", 2)
    assert erase(monkeypatch, "--dry-run")[0]["messages"] == 3
    assert erase(monkeypatch)[0]["messages"] == 3


def test_a_truncated_hash_that_two_numbers_share_erases_one_of_them(messages, monkeypatch):
    person = Message.objects.filter(client="bob").get()
    Message.objects.filter(client="alice").exclude(pk=person.pk).update(sender_index=person.sender_index)
    erase(monkeypatch)
    assert senders() == {OTHER}


def test_a_row_that_does_not_open_is_left_and_said(messages, monkeypatch):
    Column(Message.objects.get(client="bob"), "sender_number").write(b"bad")
    said, code = erase(monkeypatch)
    assert (said["messages"], said["unreadable"], code) == (2, 1, 1)
    assert Message.objects.filter(client="bob").exists()


def test_erased_messages_do_not_come_back_from_the_queue(ingest, register, monkeypatch):
    blob = ingest.envelope(a_message(sender_number=PERSON))
    register(blob)
    erase(monkeypatch)
    assert register(blob)[0]["outcome"] == "duplicate"
    assert not Message.objects.exists()


def test_without_a_terminal_the_number_must_come_from_standard_input(db, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(CommandError, match="--sender -"):
        call_command("erase")


def test_the_report_says_what_remains_and_warns_of_the_shell_history(messages):
    out, err = StringIO(), StringIO()
    call_command("erase", "--sender", PERSON, "--yes", stdout=out, stderr=err)
    assert "shell's history" in err.getvalue()
    for part in ("Erased: 3 message(s)", "dead letters", "backups", "ledger"):
        assert part in out.getvalue()
    assert PERSON[3:] not in out.getvalue() + err.getvalue()
