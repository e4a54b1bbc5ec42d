"""Messages as they travel: canonical JSON, and nothing that is no message."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.messages import Message, decode_list, encode

ID = UUID("019bf3a8-5c00-7abc-8def-0123456789ab")
texts = st.text(st.characters(exclude_categories=["Cs"]))
whole = st.builds(
    Message,
    id=st.uuids(),
    client=texts,
    certificate=texts,
    sender_number=texts,
    message_body=texts,
    client_reference=st.none() | texts,
    sent_at=st.none() | st.datetimes(timezones=st.just(UTC)),
    idempotency=st.none() | texts,
)


@given(st.lists(whole, max_size=3))
def test_messages_come_back_as_they_were(batch: list[Message]) -> None:
    assert decode_list(encode(batch)) == batch
    assert decode_list(encode(batch) + b"   ") == batch


def test_the_form_is_canonical() -> None:
    message = Message(
        id=ID,
        client="alice",
        certificate="1a",
        sender_number="+4915200000000",
        message_body="Grüße",
        sent_at=datetime(2026, 1, 31, 12, tzinfo=UTC),
    )

    assert encode([message]).decode() == (
        '[{"certificate":"1a","client":"alice","id":"019bf3a8-5c00-7abc-8def-0123456789ab",'
        '"message_body":"Grüße","sender_number":"+4915200000000","sent_at":"2026-01-31T12:00:00Z"}]'
    )


GOOD = f'"id":"{ID}","client":"a","certificate":"1","sender_number":"+1","message_body":"x"'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[",
        b"null",
        b"{}",
        b"[{}]",
        b"[1]",
        b"[" * 100_000,
        b'["\xff"]',
        f'[{{{GOOD},"extra":1}}]'.encode(),
        f'[{{{GOOD},"sent_at":"yesterday"}}]'.encode(),
        f"[{{{GOOD.replace(str(ID), '42')}}}]".encode(),
        f"[{{{GOOD}}}] trailing".encode(),
        f"[{{{GOOD.replace('x', chr(0xD800))}}}]".encode("utf-8", "surrogatepass"),
    ],
)
def test_what_is_no_list_of_messages_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match="list of messages"):
        decode_list(content)
