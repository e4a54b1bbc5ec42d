"""The CA's own record: complete, in order, and its holes show."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from certs_app import audit
from certs_app.audit import Actor
from certs_app.models import AppendOnly, AuditEvent, Certificate, Issuer
from certs_app.tests.processes import result_of, run_beside
from certs_app.tests.test_commands import refused, run
from conftest import People


def sql(statement: str, *values: Any) -> None:
    """What somebody does who has the database's password and not our code."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)


@pytest.fixture
def record(people: People) -> list[AuditEvent]:
    """A record of six events: three CAs, alice and bob, and bob's end."""
    people.issue("alice", "client")
    people.issue("bob", "client")
    people.revoke("bob", "key_compromise")
    return list(AuditEvent.objects.order_by("id"))


def test_what_the_ca_does_is_recorded_in_order(record: list[AuditEvent]) -> None:
    assert [(event.action, event.subject) for event in record] == [
        ("ca_made", "root CA"),
        ("ca_made", "clients CA"),
        ("ca_made", "servers CA"),
        ("issued", "client/alice"),
        ("issued", "client/bob"),
        ("revoked", "client/bob"),
    ]
    assert {event.actor for event in record} == {"operator:olga"}
    assert record[-1].detail == "key_compromise"
    assert record[-1].subject_certificate == Certificate.objects.get(name="bob").serial_number


def test_an_untouched_record_is_whole(record: list[AuditEvent]) -> None:
    assert list(audit.broken()) == []
    said = run("list_audit", "--verify")
    assert "whole: 6 events" in said
    assert record[-1].digest in said


def test_an_empty_record_is_whole(transactional_db: None) -> None:
    assert "empty" in run("list_audit", "--verify")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("actor", "operator:nobody"),
        ("actor_certificate", "1"),
        ("action", "revoked"),
        ("subject", "client/mallory"),
        ("subject_certificate", "2"),
        ("detail", "superseded"),
        ("digest", "0" * 64),
        ("at", "2020-01-01 00:00:00"),
    ],
)
def test_a_row_changed_behind_our_back_is_found(record: list[AuditEvent], column: str, value: str) -> None:
    sql(f"UPDATE certs_app_auditevent SET {column} = %s WHERE id = %s", value, record[3].pk)

    assert f"broken at event {record[3].pk} " in refused("list_audit", "--verify")


def test_a_row_with_a_digest_made_anew_is_found_at_the_next(record: list[AuditEvent]) -> None:
    changed = AuditEvent.objects.get(pk=record[3].pk)
    changed.subject = "client/mallory"
    sql(
        "UPDATE certs_app_auditevent SET subject = %s, digest = %s WHERE id = %s",
        changed.subject,
        audit.digest(changed),
        changed.pk,
    )

    assert [event.pk for event in audit.broken()] == [record[4].pk]


@pytest.mark.parametrize("gone", [0, 2, 4])
def test_a_row_taken_out_is_found_at_the_next(record: list[AuditEvent], gone: int) -> None:
    sql("DELETE FROM certs_app_auditevent WHERE id = %s", record[gone].pk)

    assert f"broken at event {record[gone + 1].pk} " in refused("list_audit", "--verify")


def test_our_own_code_cannot_change_or_remove_an_event(record: list[AuditEvent]) -> None:
    event = record[3]
    event.detail = "nothing happened"
    for change in (
        event.save,
        event.delete,
        AuditEvent.objects.all().delete,
        lambda: AuditEvent.objects.update(detail=""),
        lambda: AuditEvent.objects.filter(pk=event.pk).update(detail=""),
        lambda: AuditEvent.objects.bulk_update([event], ["detail"]),
    ):
        with pytest.raises(AppendOnly):
            change()

    assert list(audit.broken()) == []


def test_two_events_never_follow_the_same_one(record: list[AuditEvent]) -> None:
    """The database holds it, whatever the code does."""
    with pytest.raises(IntegrityError), transaction.atomic():
        AuditEvent.objects.create(at=timezone.now(), actor="x", action="x", subject="x", previous=record[2].previous)


def test_an_event_leaves_with_what_it_records(people: People, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "certs_app.audit")
    caplog.clear()
    before = AuditEvent.objects.count()
    with transaction.atomic():
        people.issue("alice", "client")
        transaction.set_rollback(True)

    assert AuditEvent.objects.count() == before
    assert "the CA acted" not in caplog.text, "the log is the anchor: it must not know more than the record"


def test_the_digest_is_in_the_log_as_well(people: People, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "certs_app.audit")
    people.issue("alice", "client")

    assert AuditEvent.objects.latest("id").digest == caplog.records[-1].digest  # type: ignore[attr-defined]


ADD = """
from django.utils import timezone
from certs_app import audit
from certs_app.audit import Actor
from certs_app.models import Issuer
root = Issuer.objects.get(name="root")
for number in range(100):
    audit.record("issued", Actor(f"operator:{os.getpid()}"), root, timezone.now(), str(number))
"""
MADE = """
from certs_app import audit
from certs_app.models import AuditEvent
result(number=AuditEvent.objects.count(), broken=[event.pk for event in audit.broken()],
       actors=AuditEvent.objects.values("actor").distinct().count())
"""


def test_two_processes_at_once_never_fork_the_chain(tmp_path: Path) -> None:
    run_beside(tmp_path, ADD, ADD)

    made = result_of(tmp_path, MADE)

    assert made == {"number": 203, "broken": [], "actors": 3}


# --- list_audit -------------------------------------------------------------------------------------------------------


def test_list_audit_shows_the_newest_last(record: list[AuditEvent]) -> None:
    lines = run("list_audit").splitlines()

    assert len(lines) == 6
    number = Certificate.objects.get(name="bob").serial_number
    assert lines[-1].endswith(f"operator:olga revoked client/bob [{number}]: key_compromise")


@pytest.mark.parametrize("who", ["bob", "client/bob", "serial"])
def test_list_audit_by_whom_it_was_done_to(record: list[AuditEvent], who: str) -> None:
    who = Certificate.objects.get(name="bob").serial_number.upper() if who == "serial" else who

    assert [line.split()[3] for line in run("list_audit", "--who", who).splitlines()] == ["issued", "revoked"]


def test_list_audit_by_who_did_it(record: list[AuditEvent]) -> None:
    audit.record("revoked", Actor("admin/ada", "beef"), Issuer.objects.get(name="root"), timezone.now())

    assert len(run("list_audit", "--who", "olga").splitlines()) == 6
    for who in ("ada", "admin/ada", "BE:EF"):
        assert "admin/ada [beef] revoked root CA" in run("list_audit", "--who", who)
    assert run("list_audit", "--who", "da") == ""


def test_list_audit_since_a_date(record: list[AuditEvent]) -> None:
    tomorrow = timezone.now() + timedelta(days=1)

    assert run("list_audit", "--since", f"{tomorrow:%Y-%m-%d}") == ""
    assert len(run("list_audit", "--since", "2026-01-01T12:00").splitlines()) == 6
    assert "is no date" in refused("list_audit", "--since", "yesterday")


def test_list_audit_for_programs(record: list[AuditEvent]) -> None:
    events = json.loads(run("list_audit", "--json"))

    assert [event["digest"] for event in events] == [event.digest for event in record]
    assert set(events[0]) == {
        "at",
        "actor",
        "actor_certificate",
        "action",
        "subject",
        "subject_certificate",
        "detail",
        "digest",
    }
