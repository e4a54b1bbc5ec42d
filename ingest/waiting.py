"""Which envelopes wait in Redis: in the queue, in a worker's hands, or among the dead letters."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings

from ingest import queue
from wire.ids import received_at

# How many entries one script looks at: some milliseconds, in which Redis does nothing else.
CHUNK = 500
# How many it holds at once, at most and at first: an entry may have most of a megabyte.
SLICE, FIRST_SLICE = 128, 8

# Where an envelope waits; in a worker's hands it is queued, too.
QUEUED, DEAD = "queued", "dead"

# The envelope ids of at most ARGV[2] entries from ARGV[1] on, fewer when they are large. Only ids travel. In an entry,
# an envelope's text stands inside a JSON string, whose quotes are escaped: what is found is the headers' id.
IDS = """
local ids, bytes = {}, 0
local first, last = tonumber(ARGV[1]), ARGV[1] + ARGV[2] - 1
local slice, most = tonumber(ARGV[3]), tonumber(ARGV[4])
while first <= last and bytes < 1048576 do
  local entries = redis.call('LRANGE', KEYS[1], first, math.min(first + slice - 1, last))
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    ids[#ids + 1] = string.match(entry, '"id":%s*"([^"]+)"') or ''
    bytes = bytes + #entry
  end
  first, slice = first + #entries, math.min(4 * slice, most)
end
return ids
"""

# The next cursor, then some fields of a hash. (HSCAN's own NOVALUES is too new.)
FIELDS = """
local found = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local answer = {found[1]}
for i = 1, #found[2], 2 do answer[#answer + 1] = found[2][i] end
return answer
"""


@dataclass(frozen=True)
class QueueState:
    """How much waits, in envelopes, and when the oldest in the queue was sealed."""

    depth: int
    held: int
    dead: int
    oldest_at: datetime | None


class Lookout:
    """Looks into Redis. Raises redis.RedisError."""

    def __init__(self) -> None:
        self._client = queue.sync_queue().client
        self._ids: Callable[..., list[bytes]] = self._client.register_script(IDS)
        self._fields: Callable[..., list[bytes]] = self._client.register_script(FIELDS)

    def state(self) -> QueueState:
        """Return how much waits."""
        client: Any = self._client
        held = sum(client.hlen(key) for key in self._held())
        return QueueState(client.llen(queue.name()), held, client.hlen(settings.DEAD_LETTERS), self._oldest())

    def _oldest(self) -> datetime | None:
        for text in self._ids(keys=[queue.name()], args=[-1, 1, 1, 1]):
            try:
                return received_at(UUID(text.decode()))
            except ValueError:
                return None
        return None

    def ids(self) -> Iterator[tuple[str, list[bytes]]]:
        """Yield what waits and where, a chunk at a time; some of it twice.

        From the left, where entries are added: what moves meanwhile comes again, or has gone on to a worker's hands,
        which are looked at later.
        """
        start = 0
        while found := self._ids(keys=[queue.name()], args=[start, CHUNK, FIRST_SLICE, SLICE]):
            yield QUEUED, found
            start += len(found)
        for key in self._held():
            yield from ((QUEUED, found) for found in self._all_fields(key))
        yield from ((DEAD, found) for found in self._all_fields(settings.DEAD_LETTERS))

    def _held(self) -> list[str]:
        workers: Any = self._client.zrange(f"{queue.name()}.workers", 0, -1)
        return [f"{queue.name()}.held:{worker.decode()}" for worker in workers]

    def _all_fields(self, key: str) -> Iterator[list[bytes]]:
        cursor = b"0"
        while True:
            cursor, *fields = self._fields(keys=[key], args=[cursor, FIRST_SLICE])
            yield fields
            if cursor == b"0":
                return


class Waiting:
    """Envelope ids and where each waits, in a temporary file that SQLite removes: millions take no memory."""

    def __init__(self, chunks: Iterable[tuple[str, list[bytes]]]) -> None:
        self._database = sqlite3.connect("")
        self._database.execute("PRAGMA cache_size = -2048")
        self._database.execute("CREATE TABLE waiting (id TEXT PRIMARY KEY, place TEXT NOT NULL) WITHOUT ROWID")
        for place, chunk in chunks:
            rows = [(one.decode(errors="replace"), place) for one in chunk]
            self._database.executemany("INSERT OR REPLACE INTO waiting VALUES (?, ?)", rows)

    def among(self, envelopes: Iterable[str]) -> dict[str, str]:
        """Return those of some hundred envelopes that wait, and where."""
        query = "SELECT id, place FROM waiting WHERE id IN (SELECT value FROM json_each(?))"
        return dict(self._database.execute(query, (json.dumps(list(envelopes)),)))

    def close(self) -> None:
        self._database.close()
