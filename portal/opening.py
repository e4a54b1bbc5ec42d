"""Open a message's sealed values for showing: one that cannot be read becomes a gap, never an error page."""

from dataclasses import dataclass

from registry import tampering
from registry.models import Message
from registry.sealing import UNREADABLE

START_CHARACTERS = 80


@dataclass(frozen=True)
class Opened:
    """A message and its opened texts. Each name in `unreadable` is None for that reason."""

    row: Message
    sender_number: str | None
    message_body: str | None
    client_reference: str | None
    unreadable: tuple[str, ...]

    @property
    def body_start(self) -> str | None:
        """The body's first characters, on one line; None when it is unreadable."""
        if self.message_body is None:
            return None
        line = " ".join(self.message_body[: 4 * START_CHARACTERS].split())
        return line if len(line) <= START_CHARACTERS else f"{line[:START_CHARACTERS].rstrip()}…"


def open_message(message: Message) -> Opened:
    """Open what can be opened."""
    texts: dict[str, str | None] = dict.fromkeys(tampering.SEALED)
    unreadable = []
    for name in tampering.SEALED:
        try:
            texts[name] = getattr(message, name)
        except UNREADABLE as error:
            unreadable.append(name)
            tampering.note(message.uid, name, tampering.reason_of(error), "portal")
    return Opened(message, unreadable=tuple(unreadable), **texts)
