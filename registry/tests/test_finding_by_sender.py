from datetime import timedelta

import pytest
from django.db import connection

from certs_app.files import write_secret
from registry import blind_index, key_document, keyring
from registry.key_document import INDEX
from registry.models import Message
from registry.tests.conftest import NOW, SENDER, a_row, new_id, until

OTHER = "+14155552671"


def store(count):
    """Store messages of three senders, of which each time is shared by several."""
    rows = []
    for number in range(count):
        moment = NOW + timedelta(milliseconds=number // 7)
        sender = (SENDER, OTHER, "+33123456789")[number % 3]
        rows.append(a_row(id=new_id(moment), sender_number=sender))
    Message.objects.bulk_create(rows)


@pytest.fixture
def many(db):
    store(300)


@pytest.fixture
def analysed(transactional_db):
    """As many rows as it takes for an index to be worth it; ANALYZE TABLE ends a transaction."""
    store(2000)
    if connection.vendor == "mysql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE TABLE registry_message")
            cursor.fetchall()


def pages(rows, size=8):
    """Walk through `rows` page by page."""
    page = list(rows.newest_first()[:size])
    while page:
        yield page
        page = list(rows.older_than(page[-1].received_at, page[-1].pk).newest_first()[:size])


def test_a_sender_is_found_exactly(many):
    found = Message.objects.from_sender(SENDER)
    assert found.count() == 100
    assert {message.sender_number for message in found} == {SENDER}


@pytest.mark.parametrize("number", ["+4915200000001", "+491520000000", "4915200000000", "+4915200000000 ", ""])
def test_another_number_finds_nothing(many, number):
    assert Message.objects.from_sender(number).count() == 0


def test_the_index_is_keyed_and_short():
    assert len(blind_index.sender(SENDER)) == blind_index.SENDER_BYTES
    assert blind_index.sender(SENDER) == blind_index.sender(SENDER) != blind_index.sender(OTHER)


@pytest.mark.parametrize("size", [1, 7, 8, 50])
def test_paging_loses_and_repeats_nothing_where_times_are_equal(many, size):
    walked = [message.pk for page in pages(Message.objects.all(), size) for message in page]
    assert walked == list(Message.objects.order_by("-received_at", "-id").values_list("pk", flat=True))
    assert len(set(walked)) == 300


def test_paging_through_one_sender_is_complete(many):
    walked = [message.pk for page in pages(Message.objects.from_sender(OTHER)) for message in page]
    assert len(walked) == len(set(walked)) == 100


def test_what_arrives_meanwhile_does_not_shift_the_pages(many):
    walk = pages(Message.objects.all())
    first = next(walk)
    a_row(id=new_id(NOW + timedelta(hours=1))).save()
    assert not {message.pk for message in first} & {message.pk for message in next(walk)}


@pytest.mark.parametrize(
    ("rows", "index"),
    [
        (lambda: Message.objects.newest_first(), "message_by_time"),
        (lambda: Message.objects.older_than(NOW + timedelta(milliseconds=10), 50).newest_first(), "message_by_time"),
        (lambda: Message.objects.from_sender(SENDER).newest_first(), "message_by_sender"),
        (
            lambda: Message.objects.from_sender(SENDER).older_than(NOW + timedelta(milliseconds=10), 50).newest_first(),
            "message_by_sender",
        ),
    ],
    ids=["newest", "next page", "of a sender", "next page of a sender"],
)
def test_a_page_comes_from_the_index_without_sorting(analysed, rows, index):
    plan = rows()[:10].explain()
    assert index in plan, plan
    assert "TEMP B-TREE" not in plan, plan
    assert "filesort" not in plan, plan


def test_no_page_is_sorted_while_an_index_key_is_rotated(key_file, analysed):
    half = Message.objects.filter(pk__in=list(Message.objects.values_list("pk", flat=True))[::2])
    document = keyring.document().add(INDEX, NOW)[0].promote(INDEX, 2, NOW)
    write_secret(key_file, key_document.encode(document), replace=True)
    until(lambda: keyring.ring().index.primary == 2)
    half.filter(sender_index=blind_index.value(SENDER, keyring.ring(), 1)).update(
        sender_index=blind_index.sender(SENDER)
    )
    asked = []

    def note(execute, sql, params, many, context):
        asked.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        found = Message.objects.newest_from_sender(SENDER, 10)
    assert found == list(Message.objects.from_sender(SENDER).newest_first()[:10])
    assert {row.sender_index for row in found} == set(blind_index.senders(SENDER))
    with connection.cursor() as cursor:
        for sql, params in asked:
            cursor.execute(f"{'EXPLAIN QUERY PLAN' if connection.vendor == 'sqlite' else 'EXPLAIN'} {sql}", params)
            plan = str(cursor.fetchall())
            assert "message_by_sender" in plan
            assert "TEMP B-TREE" not in plan
            assert "filesort" not in plan
