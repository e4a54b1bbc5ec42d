from dataclasses import dataclass
from uuid import UUID

import pytest
from django.db import IntegrityError, transaction
from hypothesis import given
from hypothesis import strategies as st

from registry import sealing
from registry.keyring import KeyMissing, KeyRing, Masters
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


# -- whatever the text, the row, the column and the change

RING = KeyRing(Masters(2, {1: b"\1" * 32, 2: b"\2" * 32}), Masters(1, {1: b"\3" * 32}))
LABELS = ["registry.message.sender_number", "registry.message.message_body", "registry.message.client_reference"]


@dataclass(frozen=True)
class Place:
    """A column of a row."""

    label: str
    uid: UUID


PLACES = st.builds(Place, st.sampled_from(LABELS), st.uuids())
TEXTS = st.text(max_size=200)


def seal(text: str, place: Place, key_id: int = 2) -> bytes:
    return sealing.seal(text, label=place.label, uid=place.uid.bytes, ring=RING, key_id=key_id)


def unseal(blob: bytes, place: Place) -> str:
    return sealing.open_sealed(blob, label=place.label, uid=place.uid.bytes, ring=RING)


@given(TEXTS, PLACES, st.sampled_from([1, 2]))
def test_every_text_comes_back(text, place, key_id):
    assert unseal(seal(text, place, key_id), place) == text


@given(TEXTS, PLACES, st.data())
def test_any_byte_changed_anywhere_is_noticed(text, place, data):
    blob = bytearray(seal(text, place))
    position = data.draw(st.integers(0, len(blob) - 1))
    blob[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UNREADABLE):
        unseal(bytes(blob), place)


@given(TEXTS, PLACES, st.data())
def test_anything_cut_off_put_in_or_added_is_noticed(text, place, data):
    blob = seal(text, place)
    start = data.draw(st.integers(0, len(blob)))
    end = data.draw(st.integers(start, len(blob)))
    changed = blob[:start] + data.draw(st.binary(max_size=40)) + blob[end:]
    if changed != blob:
        with pytest.raises(UNREADABLE):
            unseal(changed, place)


@given(TEXTS, PLACES, PLACES)
def test_a_value_moved_to_any_other_row_or_column_is_refused(text, place, other):
    if place != other:
        with pytest.raises(Tampered):
            unseal(seal(text, place), other)


@given(st.binary(max_size=300), PLACES)
def test_whatever_bytes_lie_there_are_refused_by_one_of_three_errors(stored, place):
    with pytest.raises(UNREADABLE):
        unseal(stored, place)
