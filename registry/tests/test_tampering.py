import pytest
from django.db import IntegrityError, transaction

from registry.keyring import KeyMissing
from registry.models import Message
from registry.sealing import UNREADABLE, Malformed, Tampered
from registry.tests.conftest import BODY, Column


def body_of(message: Message) -> str:
    return Message.objects.get(pk=message.pk).message_body


def test_a_value_from_another_row_does_not_open(stored):
    mine, other = stored(), stored(message_body="other")
    Column(mine).write(Column(other).read())
    with pytest.raises(Tampered):
        body_of(mine)


def test_a_value_from_another_column_does_not_open(stored):
    message = stored()
    Column(message).write(Column(message, "sender_number").read())
    with pytest.raises(Tampered):
        body_of(message)


def test_a_row_given_another_uid_does_not_open(stored):
    message = stored()
    Column(message, "uid").write(bytes(16))
    with pytest.raises(Tampered):
        body_of(message)


def test_a_row_cannot_take_anothers_uid(stored):
    mine, other = stored(), stored()
    with pytest.raises(IntegrityError), transaction.atomic():
        Column(mine, "uid").write(other.uid.bytes)


@pytest.mark.parametrize("position", [6, 17, 18, 30, -17, -16, -1])
def test_one_flipped_bit_in_nonce_text_or_tag_is_noticed(stored, position):
    message = stored()
    blob = bytearray(Column(message).read())
    blob[position] ^= 1
    Column(message).write(bytes(blob))
    with pytest.raises(Tampered):
        body_of(message)


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (b"\x01\x02\0\0\0\x09", KeyMissing),
        (b"\x01\x02\xff\xff\xff\xff", KeyMissing),
        (b"\x01\x00\0\0\0\x01", Tampered),
        (b"\x01\x03\0\0\0\x01", Malformed),
        (b"\x00\x02\0\0\0\x01", Malformed),
        (b"\x07\x02\0\0\0\x01", Malformed),
    ],
)
def test_a_changed_header_is_noticed(stored, header, error):
    message = stored()
    Column(message).write(header + Column(message).read()[6:])
    with pytest.raises(error):
        body_of(message)


@pytest.mark.parametrize(
    "value", [b"", b"\x01\x02", b"hello there, plain text from before it was sealed", b"\x00" * 64, b"x" * 33]
)
def test_what_was_never_sealed_is_malformed(stored, value):
    message = stored()
    Column(message).write(value)
    with pytest.raises(Malformed):
        body_of(message)


@pytest.mark.parametrize("kept", [34, 40, -1, -16, -32])
def test_a_truncated_value_does_not_open(stored, kept):
    message = stored()
    Column(message).write(Column(message).read()[:kept])
    with pytest.raises(Tampered):
        body_of(message)


def test_an_error_names_the_row_and_nothing_of_the_text(stored):
    message = stored()
    Column(message).write(Column(stored(message_body="other")).read())
    with pytest.raises(UNREADABLE) as caught:
        body_of(message)
    assert message.uid.hex in str(caught.value)
    assert BODY not in str(caught.value)


def test_a_list_survives_one_bad_row_until_it_is_read(stored):
    bad, good = stored(), stored()
    Column(bad).write(b"bad")
    rows = {message.pk: message for message in Message.objects.all()}
    assert rows[good.pk].message_body == BODY
    assert rows[bad.pk].sender_number
    with pytest.raises(Malformed):
        _ = rows[bad.pk].message_body


def test_a_bad_row_still_takes_a_status(stored):
    message = stored()
    Column(message).write(b"bad")
    assert Message.objects.get(pk=message.pk).advance("delivered", message.received_at, "", "gateway/gsm")
    assert Column(message).read() == b"bad"
