"""Message ids: UUIDv7, with the time of receipt inside."""

from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.ids import following, new_id, received_at

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# 1970 to 2243, in milliseconds.
moments = st.integers(min_value=0, max_value=1 << 43)


def test_the_example_of_the_rfc_is_read() -> None:
    """RFC 9562, appendix A.6."""
    uid = UUID("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")

    assert received_at(uid) == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)


@given(moments)
def test_the_time_inside_is_exact_to_the_millisecond(milliseconds: int) -> None:
    uid = UUID(int=milliseconds << 80 | 0x7 << 76 | 0b10 << 62)

    assert received_at(uid) == EPOCH + timedelta(milliseconds=milliseconds)


@given(moments, st.floats(min_value=0.0001, max_value=0.9))
def test_a_new_id_holds_the_millisecond_of_its_making(milliseconds: int, rest: float) -> None:
    uid = new_id((milliseconds + rest) / 1000)

    assert received_at(uid) == EPOCH + timedelta(milliseconds=milliseconds)


@given(moments, st.integers(min_value=0, max_value=(1 << 32) - 1))
def test_every_id_of_a_batch_is_a_uuid_7_of_the_same_time(milliseconds: int, position: int) -> None:
    first = new_id(milliseconds / 1000)
    uid = following(first, position)

    assert (uid.version, uid.variant) == (7, RFC_4122)
    assert received_at(uid) == received_at(first)
    assert uid.int - first.int == position


def test_ids_do_not_repeat() -> None:
    assert len({new_id(1_700_000_000.0) for _ in range(10_000)}) == 10_000


def test_ids_sort_by_time() -> None:
    ids = [new_id(1_700_000_000 + step / 1000) for step in range(100)]

    assert ids == sorted(ids)


@pytest.mark.parametrize("position", [-1, 1 << 32])
def test_a_position_outside_a_batch_is_refused(position: int) -> None:
    with pytest.raises(ValueError, match="batch position"):
        following(new_id(0), position)


def test_other_versions_hold_no_time() -> None:
    for uid in (uuid4(), UUID(int=0), UUID(int=(1 << 128) - 1)):
        with pytest.raises(ValueError, match="UUIDv7"):
            received_at(uid)


def test_a_time_beyond_the_calendar_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="out of range"):
        received_at(UUID(int=((1 << 48) - 1) << 80 | 0x7 << 76 | 0b10 << 62))
