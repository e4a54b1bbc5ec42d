"""The message as it travels inside an envelope: canonical JSON, one object per message."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One accepted message.

    `client` is the name in the client certificate, `certificate` its serial number (hex), `idempotency` the
    SHA-256 (hex) of the client's Idempotency-Key. The time of receipt is inside `id` (UUIDv7).
    """

    id: UUID
    client: str
    certificate: str
    sender_number: str
    message_body: str
    client_reference: str | None = None
    sent_at: datetime | None = None
    idempotency: str | None = None


_DECODER = msgspec.json.Decoder(list[Message])


def encode(value: Any) -> bytes:
    """Encode as canonical JSON: keys sorted, no white space, UTF-8."""
    return msgspec.json.encode(value, order="sorted")


def decode_list(data: bytes) -> list[Message]:
    """Decode an envelope's content. Raises ValueError when it is not a list of messages."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError("the envelope does not hold a list of messages") from error
