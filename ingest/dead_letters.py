"""Envelopes the registry rejected for good: kept, counted, listed, requeued or dropped, never gone by themselves.

They lie in one Redis hash: under the envelope's id (of an entry no worker could take: "malformed-" and its SHA-1), as
JSON {"id", "code", "at", "entry"}, where `at` is seconds since the epoch and `entry` the raw Celery message.
"""

import base64
import binascii
import hashlib
import heapq
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec
from django.conf import settings

from ingest import metrics, queue
from ingest.queue import sync_queue, task_message
from wire import envelope
from wire.dead_letters import MALFORMED_ENTRY
from wire.envelope import Envelope, EnvelopeError

logger = logging.getLogger(__name__)

# Letters a step reads or moves: each may have 1.4 MB, and no script may keep Redis from the others for long.
CHUNK = 20
_MALFORMED = "malformed-"

# Queue letters again, each in the queue before it leaves the hash: a refused LPUSH ends the script there.
# KEYS: letters, queue. ARGV: most entries of the queue, ids. Answers "full" or "", then the ids that were moved.
REQUEUE = """
local answer = {''}
for i = 2, #ARGV do
  local value = redis.call('HGET', KEYS[1], ARGV[i])
  if value then
    if redis.call('LLEN', KEYS[2]) >= tonumber(ARGV[1]) then
      answer[1] = 'full'
      break
    end
    redis.call('LPUSH', KEYS[2], cjson.decode(value).entry)
    redis.call('HDEL', KEYS[1], ARGV[i])
    answer[#answer + 1] = ARGV[i]
  end
end
return answer
"""

# Move the last items of the list that older versions kept into the hash. KEYS: letters, list. ARGV: item as it was
# read, id, letter, and so on. Stops at an item that is not the list's last: another worker has just moved it.
ADOPT = """
for i = 1, #ARGV, 3 do
  if redis.call('LINDEX', KEYS[2], -1) ~= ARGV[i] then return 0 end
  redis.call('HSETNX', KEYS[1], ARGV[i + 1], ARGV[i + 2])
  redis.call('RPOP', KEYS[2])
end
return #ARGV / 3
"""


class QueueFull(Exception):
    """The queue holds as much as it may: nothing more is requeued for now."""


@dataclass(frozen=True, order=True)
class Letter:
    """What is known of one without its content. `size` is the bytes it takes in Redis."""

    at: int
    id: str
    code: str = field(compare=False)
    size: int = field(compare=False)


@dataclass(frozen=True)
class Requeued:
    """What became of a chunk: ids that went back into the queue, that were gone before, and that cannot (with why)."""

    moved: list[str]
    gone: list[str]
    refused: dict[str, str]


def add(envelope_id: str, envelope: str, code: str) -> None:
    """Keep a rejected envelope with the registry's reason. Raises redis.RedisError: the task then tries again."""
    entry = task_message(envelope_id, envelope).decode()
    value = _value(envelope_id, code[:64], int(time.time()), entry)
    if sync_queue().client.hset(settings.DEAD_LETTERS, envelope_id, value):
        metrics.count_dead_letter(code)
    logger.error("an envelope went to the dead letters", extra={"envelope": envelope_id, "code": code[:64]})


def count() -> int:
    """Return how many there are."""
    length = sync_queue().client.hlen(settings.DEAD_LETTERS)
    assert isinstance(length, int)
    return length


def iterate() -> Iterator[Letter]:
    """Yield every letter, in no order. One that is added or removed meanwhile may be missing or come twice."""
    cursor = 0
    while True:
        cursor, found = _client().hscan(settings.DEAD_LETTERS, cursor, count=CHUNK)
        yield from (_letter(name, value) for name, value in found.items())
        if cursor == 0:
            return


def oldest(letters: Iterable[Letter], limit: int | None = None) -> list[Letter]:
    """Return the oldest `limit` letters (None: all), the oldest first."""
    return _once(sorted(letters) if limit is None else heapq.nsmallest(limit, letters))


def newest(letters: Iterable[Letter], limit: int | None = None) -> list[Letter]:
    """Return the newest `limit` letters (None: all), the newest first."""
    return _once(sorted(letters, reverse=True) if limit is None else heapq.nlargest(limit, letters))


def _once(letters: list[Letter]) -> list[Letter]:
    # While Redis resizes the hash, a scan may meet a letter twice.
    return list(dict.fromkeys(letters))


def find(ids: Sequence[str]) -> Iterator[Letter]:
    """Yield the letters with these ids; ids without a letter are passed over."""
    for chunk in chunks(ids):
        for name, value in zip(chunk, _client().hmget(settings.DEAD_LETTERS, chunk), strict=True):
            if value is not None:
                yield _letter(name.encode(), value)


def requeue(ids: Sequence[str]) -> Iterator[Requeued]:
    """Put letters back into the queue, in the order of `ids`; yield what became of each chunk.

    A chunk is one step: an entry is in the queue or among the dead letters at every moment. Raises QueueFull after the
    last chunk that went, redis.RedisError.
    """
    script = _client().register_script(REQUEUE)
    for chunk in chunks(ids):
        values = dict(zip(chunk, _client().hmget(settings.DEAD_LETTERS, chunk), strict=True))
        refused = {name: why for name, value in values.items() if value and (why := obstacle(name, value))}
        good = [name for name, value in values.items() if value and name not in refused]
        keys = [settings.DEAD_LETTERS, queue.name()]
        full, *moved = script(keys=keys, args=[settings.MAX_QUEUE_LENGTH, *good])
        went = [name.decode() for name in moved]
        yield Requeued(went, [] if full else [name for name in chunk if name not in (*went, *refused)], refused)
        if full:
            raise QueueFull(f"the queue holds the {settings.MAX_QUEUE_LENGTH:,} entries it may")


def drop(ids: Sequence[str]) -> Iterator[int]:
    """Remove letters for ever; yield how many were there, for each chunk."""
    for chunk in chunks(ids):
        yield int(_client().hdel(settings.DEAD_LETTERS, *chunk))


def is_malformed(name: str) -> bool:
    """Is this the id of an entry that was no message of ours?"""
    return name.startswith(_MALFORMED)


def obstacle(name: str, value: bytes) -> str:
    """Say why a letter cannot be requeued; "" when it can."""
    if is_malformed(name):
        return "it is no message a worker could take; look at who wrote it, then drop it"
    try:
        tag, _ = _task_arguments(value)
    except ValueError as error:
        return f"its entry is damaged ({error}): it can only be dropped"
    return "" if tag == name else "its entry belongs to another id: it can only be dropped"


def header(letter_id: str) -> Envelope | str:
    """Return the parsed envelope of a letter, nothing of it verified; or say why there is none."""
    value = _client().hget(settings.DEAD_LETTERS, letter_id)
    if value is None:
        return "it is gone"
    try:
        return envelope.parse(base64.b64decode(_task_arguments(bytes(value))[1], validate=True))
    except (ValueError, binascii.Error, EnvelopeError) as error:
        return str(error)


def adopt() -> int:
    """Move what older versions kept in the list `deliver.dead` into the hash; return how many. Harmless to repeat."""
    script, former, moved = _client().register_script(ADOPT), f"{queue.name()}.dead", 0
    while items := _client().lrange(former, -CHUNK, -1):
        arguments = [part for item in reversed(items) for part in (item, *_adopted(item))]
        moved += int(script(keys=[settings.DEAD_LETTERS, former], args=arguments))
    return moved


def _adopted(item: bytes) -> tuple[str, str]:
    """Return the id and the value of a letter in the form of older versions."""
    content = _lenient(item)
    kept = str(content.get("envelope", ""))
    code, at = str(content.get("code", MALFORMED_ENTRY)), _seconds(content.get("at"))
    if "id" in content and "envelope" in content:
        name = str(content["id"])
        return name, _value(name, code, at, task_message(name, kept).decode())
    # What is no letter at all is kept whole.
    raw = kept.encode(errors="surrogateescape") if "envelope" in content else item
    name = _MALFORMED + hashlib.sha1(raw, usedforsecurity=False).hexdigest()
    return name, _value(name, MALFORMED_ENTRY, at, raw.decode(errors="surrogateescape"))


def _value(name: str, code: str, at: int, entry: str) -> str:
    return json.dumps({"id": name, "code": code, "at": at, "entry": entry})


class _Head(msgspec.Struct):
    """All of a letter but its entry, which is skipped, not built."""

    code: str = "unreadable"
    at: int = 0


def _letter(name: bytes, value: bytes) -> Letter:
    try:
        head = msgspec.json.decode(value, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # An entry that is no UTF-8, or not a letter at all: whatever was written there is listed, not stumbled over.
        content = _lenient(value)
        head = _Head(str(content.get("code", "unreadable")), _seconds(content.get("at")))
    return Letter(head.at, name.decode(errors="backslashreplace"), head.code[:64], len(value))


def _lenient(value: bytes) -> dict[str, Any]:
    try:
        content = json.loads(value.decode(errors="surrogateescape"))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _seconds(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and abs(value) < 1 << 53 else 0


class _Properties(msgspec.Struct):
    delivery_tag: str


class _Entry(msgspec.Struct):
    body: str
    properties: _Properties


class _Kept(msgspec.Struct):
    entry: str


def _task_arguments(value: bytes) -> tuple[str, str]:
    """Return a letter's delivery tag and its envelope, in base64. Raises ValueError."""
    entry = msgspec.json.decode(msgspec.json.decode(value, type=_Kept).entry, type=_Entry)
    (_, sealed), _, _ = msgspec.json.decode(entry.body, type=tuple[tuple[str, str], dict[str, Any], dict[str, Any]])
    return entry.properties.delivery_tag, sealed


def chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    remaining = iter(ids)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk


def _client() -> Any:
    return sync_queue().client
