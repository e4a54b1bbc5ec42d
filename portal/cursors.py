"""Cursors: where a page of messages ended, signed so that nobody can aim one at rows of their choice."""

from datetime import datetime
from typing import NamedTuple

from django.core.signing import BadSignature, Signer

from registry.models import Message

_SALT = "portal.cursor"


class CursorError(ValueError):
    """The text is no cursor that this portal made."""


class Position(NamedTuple):
    """The place of one row in the order newest first."""

    received_at: datetime
    row_id: int


def after(message: Message) -> str:
    """Make the cursor of the page that follows this row. It is fit for a URL."""
    return at(Position(message.received_at, message.pk))


def at(position: Position) -> str:
    """Make the cursor of what follows this place."""
    return Signer(salt=_SALT).sign_object([position.received_at.isoformat(), position.row_id])


def read(text: str) -> Position:
    """Read a cursor. Raises CursorError."""
    try:
        received_at, row_id = Signer(salt=_SALT).unsign_object(text)
        return Position(datetime.fromisoformat(received_at), row_id)
    except (BadSignature, ValueError):
        # ValueError: characters that cannot even be encoded to check a signature.
        raise CursorError("this is not a cursor of this portal") from None
