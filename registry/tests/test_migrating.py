"""An upgrade keeps what is stored."""

from importlib import import_module

import pytest
from django.db import OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from registry.models import Message
from registry.search.models import Unindexed
from registry.tests.conftest import BODY, a_row


@pytest.fixture
def at_migration(transactional_db):
    """Bring the registry's tables to a migration; back to the newest one in the end."""

    def go(name):
        executor = MigrationExecutor(connection)
        executor.migrate([("registry", name)])

    yield go
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes("registry"))


def test_messages_and_their_steps_outlast_the_balance_sheet_s_migration(at_migration):
    rows = [a_row(message_body=f"{BODY} {number}") for number in range(300)]
    Message.objects.bulk_create(rows)
    Message.objects.get(uid=rows[7].uid).advance("delivered", timezone.now(), "", "gateway/gsm")
    at_migration("0001_initial")
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM registry_message")
        assert cursor.fetchone() == (300,)
        names = [column.name for column in connection.introspection.get_table_description(cursor, "registry_message")]
    assert "accepted_by" not in names
    at_migration("0003_balance")
    found = {row.uid: row for row in Message.objects.all()}
    assert {row.message_body for row in found.values()} == {f"{BODY} {number}" for number in range(300)}
    assert {row.accepted_by for row in found.values()} == {""}
    assert [event.status for event in found[rows[7].uid].events.all()] == ["delivered"]


def test_a_registry_of_before_may_still_write_while_the_upgrade_runs(transactional_db):
    row = a_row()
    row.save()
    columns = [
        field.column for field in Message._meta.concrete_fields if field.name not in ("id", "uid", "accepted_by")
    ]
    named = ", ".join(columns)
    with connection.cursor() as cursor:
        uid = a_row().uid.bytes
        query = f"INSERT INTO registry_message (uid, {named}) SELECT %s, {named} FROM registry_message"
        cursor.execute(query, [connection.Database.Binary(uid)])
    assert {one.accepted_by for one in Message.objects.all()} == {""}
    assert Message.objects.count() == 2


def test_what_waited_for_no_index_before_waits_for_it_then(at_migration):
    at_migration("0003_balance")
    rows = [a_row(message_body=f"{BODY} {number}") for number in range(3)]
    Message.objects.bulk_create(rows)
    at_migration("0005_waiting_messages")
    waiting = set(Unindexed.objects.values_list("message_id", flat=True))
    assert waiting == set(Message.objects.values_list("id", flat=True))


def test_filling_the_table_of_what_waits_goes_on_where_it_was_cut_short(at_migration, monkeypatch):
    at_migration("0004_search_index")
    Message.objects.bulk_create(a_row(message_body=f"{BODY} {number}") for number in range(10))
    filling = import_module("registry.migrations.0005_waiting_messages")
    monkeypatch.setattr(filling, "PORTION", 4)
    portions = []

    def cut_short(execute, sql, params, many, context):
        if "INSERT INTO registry_unindexed" in sql:
            portions.append(params)
            if len(portions) == 3:
                raise OperationalError("cut short")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(cut_short), pytest.raises(OperationalError):
        at_migration("0005_waiting_messages")
    assert Unindexed.objects.count() == 8
    at_migration("0005_waiting_messages")
    assert Unindexed.objects.count() == 10


# Those that grow with the messages.
BIG = ("registry_message", "registry_statusevent", "registry_unindexed", "registry_search_posting")


@pytest.mark.skipif("connection.vendor != 'mysql'")
def test_no_migration_of_a_big_table_copies_it_or_keeps_writers_out(at_migration):
    """Run each with the clauses that have MariaDB refuse what it cannot do so. docs/storage.md says what each costs."""
    at_migration("0002_dead_letters")
    seen = []

    def in_place(execute, sql, params, many, context):
        if sql.startswith("ALTER TABLE") and any(f"`{table}`" in sql.partition(" ADD ")[0] for table in BIG):
            algorithm = "INSTANT" if " ADD COLUMN " in sql else "INPLACE, LOCK=NONE"
            sql = f"{sql}, ALGORITHM={algorithm}"
            seen.append(sql)
        elif sql.startswith("CREATE INDEX") and any(f" ON `{table}`" in sql for table in BIG):
            sql = f"{sql} ALGORITHM=INPLACE LOCK=NONE"
            seen.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(in_place):
        executor = MigrationExecutor(connection)
        executor.migrate(executor.loader.graph.leaf_nodes("registry"))
    assert len(seen) >= 3, seen
