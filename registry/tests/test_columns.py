"""Every column of ours on MySQL or MariaDB is of the type that was meant."""

import pytest
from django.db import connection

from certs_app.identity import NAME_PATTERN

pytestmark = [pytest.mark.django_db, pytest.mark.skipif("connection.vendor != 'mysql'")]

OURS = "table_schema = DATABASE() AND (table_name LIKE 'registry\\_%%' OR table_name LIKE 'certs\\_app\\_%%')"
# Certificates and revocation lists: of any size, in small tables, never searched by.
UNBOUNDED = {("certs_app_certificate", "der"), ("certs_app_crl", "der"), ("certs_app_issuer", "der")}
BINARY = {
    ("registry_message", "uid"): "binary(16)",
    ("registry_message", "sender_index"): "binary(8)",
    ("registry_message", "idempotency"): "binary(32)",
    ("registry_message", "sender_number"): "varbinary(98)",
    ("registry_message", "client_reference"): "varbinary(578)",
    # More than a row may have beside what else is in it: kept apart from the row.
    ("registry_message", "message_body"): "mediumblob",
    ("registry_alias", "uid"): "binary(16)",
    ("registry_search_posting", "locator"): "binary(12)",
    ("registry_search_posting", "sealed"): "varbinary(8224)",
    ("registry_search_run", "members"): "varbinary(8224)",
    ("registry_search_run", "digest"): "binary(32)",
}


def ask(query):
    with connection.cursor() as cursor:
        cursor.execute(query.replace("%%", "%"))
        return cursor.fetchall()


@pytest.fixture
def columns():
    """Return {(table, column): (type, collation)}."""
    found = ask(
        f"SELECT table_name, column_name, column_type, collation_name FROM information_schema.columns WHERE {OURS}"
    )
    assert len(found) > 60
    return {(table, column): (kind, collation) for table, column, kind, collation in found}


def test_no_column_is_of_unbounded_size_but_certificates(columns):
    unbounded = {where for where, (kind, _) in columns.items() if "long" in kind or kind in ("text", "blob")}
    assert unbounded == UNBOUNDED


def test_binary_columns_are_as_wide_as_what_they_hold(columns):
    kinds = {where: kind for where, (kind, _) in columns.items() if "binary" in kind or kind == "mediumblob"}
    assert {where: kinds.get(where) for where in BINARY} == BINARY


def test_text_can_be_any_text(columns):
    collations = {collation for _, collation in columns.values() if collation}
    assert collations
    assert all(collation.startswith("utf8mb4_") for collation in collations)


def test_times_keep_their_microseconds(columns):
    times = {kind for kind, _ in columns.values() if kind.startswith(("datetime", "timestamp"))}
    assert times == {"datetime(6)"}


def test_names_that_differ_only_in_case_cannot_come_about():
    """The collations of MySQL's and MariaDB's defaults take Alice for alice: who may read what hangs on it."""
    assert NAME_PATTERN.fullmatch("alice")
    assert not NAME_PATTERN.fullmatch("Alice")
    assert not NAME_PATTERN.fullmatch("alicé")
    assert not NAME_PATTERN.fullmatch("alice ")


def test_every_foreign_key_has_an_index_that_begins_with_it():
    keys = ask(
        "SELECT table_name, column_name FROM information_schema.key_column_usage"
        f" WHERE referenced_table_name IS NOT NULL AND {OURS}"
    )
    indexed = ask(
        f"SELECT table_name, column_name FROM information_schema.statistics WHERE seq_in_index = 1 AND {OURS}"
    )
    assert len(keys) >= 6
    assert set(keys) <= set(indexed)
