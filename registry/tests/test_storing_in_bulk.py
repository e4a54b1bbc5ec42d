"""A batch costs the same few statements whether its messages are new, known, or sent again under other ids."""

from datetime import UTC, datetime

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from registry.models import Alias, Message
from registry.search.models import Unindexed
from registry.storing import COLUMNS, store
from registry.tests.conftest import BODY, NOW, an_arrival, new_id

AT = datetime(2026, 5, 4, 12, tzinfo=UTC)
MOST_STATEMENTS = 16


def keyed(number, **changes):
    return an_arrival(**{"id": new_id(AT), "idempotency": f"{number:064x}", **changes})


@pytest.fixture
def few_statements(db):
    """Store, and hold the number of statements against what a batch may cost: no savepoint, no row by itself."""

    def go(arrivals):
        with CaptureQueriesContext(connection) as captured:
            stored = store(arrivals, NOW)
        statements = [query["sql"] for query in captured]
        # SQLite and mysqlclient report a statement of many rows, or its parts, as one.
        assert len(statements) <= MOST_STATEMENTS, statements
        return stored

    return go


def test_every_column_is_written():
    assert set(COLUMNS) == {field.column for field in Message._meta.concrete_fields} - {"id"}


def test_a_new_batch_is_stored_and_waits_for_the_index(few_statements):
    arrivals = [an_arrival(message_body=f"{BODY} {number}") for number in range(100)]
    assert few_statements(arrivals) == {arrival.uid for arrival in arrivals}
    rows = Message.objects.order_by("id")
    assert {row.message_body for row in rows} == {f"{BODY} {number}" for number in range(100)}
    assert list(Unindexed.objects.order_by("message_id").values_list("message_id", flat=True)) == [
        row.pk for row in rows
    ]


def test_a_batch_that_is_known_is_refused_once_not_row_by_row(few_statements):
    arrivals = [an_arrival() for _ in range(100)]
    store(arrivals, NOW)
    assert few_statements(arrivals) == set()
    assert Message.objects.count() == Unindexed.objects.count() == 100


def test_of_a_half_known_batch_the_other_half_is_stored(few_statements):
    arrivals = [an_arrival() for _ in range(100)]
    store(arrivals[::2], NOW)
    assert few_statements(arrivals) == {arrival.uid for arrival in arrivals[1::2]}
    assert Message.objects.count() == Unindexed.objects.count() == 100


def test_a_batch_of_requests_sent_again_under_other_ids_is_kept_as_aliases(few_statements):
    store([keyed(number) for number in range(100)], NOW)
    again = [keyed(number) for number in range(100)]
    assert few_statements(again) == set()
    assert Message.objects.count() == 100
    assert {alias.uid for alias in Alias.objects.all()} == {arrival.uid for arrival in again}
    for arrival in again[:3]:
        found = Message.objects.of_client("alice", arrival.uid)
        assert found.idempotency == arrival.key[1]
    assert few_statements(again) == set()
    assert Alias.objects.count() == 100


def test_requests_repeated_within_one_batch_are_stored_once_each(few_statements):
    arrivals = [keyed(number % 50) for number in range(100)]
    stored = few_statements(arrivals)
    assert len(stored) == Message.objects.count() == Alias.objects.count() == 50
    for arrival in arrivals:
        assert Message.objects.of_client("alice", arrival.uid).idempotency == arrival.key[1]


def test_other_messages_under_keys_that_are_taken_are_stored_without_them(few_statements):
    store([keyed(number) for number in range(50)], NOW)
    others = [keyed(number, message_body="another") for number in range(50)]
    assert few_statements(others) == {arrival.uid for arrival in others}
    assert Message.objects.filter(idempotency=None).count() == 50


def test_the_keys_of_many_clients_are_told_apart(few_statements):
    store([keyed(number % 10, client=f"client-{number}") for number in range(900)], NOW)
    assert few_statements([keyed(number % 10, client=f"client-{number}") for number in range(900)]) == set()
    assert Message.objects.count() == Alias.objects.count() == 900
    # The next client's key is nobody's.
    assert len(few_statements([keyed((number + 1) % 10, client=f"client-{number}") for number in range(9)])) == 9
