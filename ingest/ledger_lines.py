"""Read the ledger's lines, some hundred at a time."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

logger = logging.getLogger(__name__)

# Lines are read so many bytes at a time, with a pause after each: the accept path shares this process.
CHUNK_BYTES = 64 * 1024
PAUSE = 0.001
_MAX_COUNT = 100_000
_UUID_CHARACTERS = 36


class Entry(NamedTuple):
    """A line of the ledger, as it is read: the envelope's id as text, that of the first message as a number."""

    envelope: str
    first: int
    messages: int
    client: str
    replay: bool = False

    @property
    def received_ms(self) -> int:
        return self.first >> 80

    def ids(self) -> Iterator[UUID]:
        return (UUID(int=uid) for uid in range(self.first, self.first + self.messages))


def chunks(file: Path, offset: int, end: int | None = None) -> Iterator[tuple[list[Entry], int]]:
    """Yield the whole lines from `offset`, some hundred at a time, each with the bytes they take."""
    try:
        opened = file.open("rb")
    except FileNotFoundError:
        # Its hour has been reduced meanwhile.
        return
    with opened:
        opened.seek(offset)
        while data := opened.read(CHUNK_BYTES if end is None else max(0, min(CHUNK_BYTES, end - offset))):
            size = data.rfind(b"\n") + 1
            if not size:
                if len(data) < CHUNK_BYTES:
                    # The line is being written, or was cut off when its writer was killed.
                    return
                size = len(data)
            yield _entries(file, data[:size]), size
            offset += size
            opened.seek(offset)
            time.sleep(PAUSE)


def _entries(file: Path, data: bytes) -> list[Entry]:
    found = []
    for line in data.split(b"\n")[:-1]:
        try:
            found.append(_entry(line))
        except ValueError:
            logger.error("a line of the ledger cannot be read", extra={"file": file.name})
    return found


def _entry(line: bytes) -> Entry:
    envelope, first, count, client, *more = line.split(b" ")
    if len(envelope) != _UUID_CHARACTERS or len(first) != _UUID_CHARACTERS or not 1 <= int(count) <= _MAX_COUNT:
        raise ValueError("not a line of the ledger")
    if more not in ([], [b"replay"]):
        raise ValueError("not a line of this version's ledger")
    number = int(first.replace(b"-", b""), 16)
    return Entry(envelope.decode(), number, int(count), client.decode(), bool(more))
