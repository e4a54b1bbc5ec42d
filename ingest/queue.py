"""The queue on Redis: the Celery message format, the scripts that write to it, and the clients that reach it."""

import asyncio
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
import redis
import redis.asyncio
import redis.exceptions
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from wire.problems import Problem, retry_later

TASK = "ingest.deliver"

# Claim idempotency keys. Answers "new|…", "again|…" (a stale claim taken over), "pending|…" or "done|…", each with the
# fingerprint and first id of the request that came first. ARGV: now, stale after, keep for, then fingerprint, id each.
CLAIM = """
local answers = {}
for i, key in ipairs(KEYS) do
  local fingerprint, id = ARGV[2 + 2 * i], ARGV[3 + 2 * i]
  local held = redis.call('GET', key)
  if not held then
    redis.call('SET', key, 'pending|' .. fingerprint .. '|' .. id .. '|' .. ARGV[1], 'EX', ARGV[3])
    answers[i] = 'new|' .. fingerprint .. '|' .. id
  else
    local first, first_id, since = string.match(held, '^pending|([^|]*)|([^|]*)|([^|]*)$')
    if first == fingerprint and tonumber(ARGV[1]) - tonumber(since) >= tonumber(ARGV[2]) then
      redis.call('SET', key, 'pending|' .. first .. '|' .. first_id .. '|' .. ARGV[1], 'EX', ARGV[3])
      answers[i] = 'again|' .. first .. '|' .. first_id
    else
      answers[i] = held
    end
  end
end
return answers
"""

# Queue envelopes, mark idempotency keys done, count messages per client: all or nothing.
# KEYS: queue, idempotency keys, rate keys. ARGV: most entries, envelopes, idempotency keys, keep keys for, keep rates
# for, messages, then the envelopes, the records, the counts. Answers {-1} when the queue is full (and lets go of the
# claims), else the counts.
COMMIT = """
local envelopes, keyed = tonumber(ARGV[2]), tonumber(ARGV[3])
if redis.call('LLEN', KEYS[1]) + envelopes > tonumber(ARGV[1]) then
  for i = 1, keyed do redis.call('DEL', KEYS[1 + i]) end
  return {-1}
end
for i = 1, envelopes do redis.call('LPUSH', KEYS[1], ARGV[6 + i]) end
for i = 1, keyed do redis.call('SET', KEYS[1 + i], ARGV[6 + envelopes + i], 'EX', ARGV[4]) end
redis.call('INCRBY', 'msgsys:accepted', ARGV[6])
local totals = {}
for i = 2 + keyed, #KEYS do
  totals[#totals + 1] = redis.call('INCRBY', KEYS[i], ARGV[5 + envelopes + i])
  redis.call('EXPIRE', KEYS[i], ARGV[5])
end
return totals
"""

FULL = [-1]


@dataclass(frozen=True)
class Call:
    """One script call."""

    keys: Sequence[str]
    arguments: Sequence[str | bytes] = field(repr=False)


def name() -> str:
    return str(settings.QUEUE_NAME)


def task_message(envelope_id: UUID, envelope: str) -> bytes:
    """Build the Celery message (protocol 2, JSON) of one envelope.

    It is the smallest form a stock worker takes; a test holds it against the installed Celery. Shape and fields:
    https://docs.celeryq.dev/en/stable/internals/protocol.html
    """
    tag = str(envelope_id)
    return msgspec.json.encode(
        {
            "body": msgspec.json.encode([[tag, envelope], {}, {}]).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"task": TASK, "id": tag, "ignore_result": True},
            "properties": {
                "correlation_id": tag,
                "delivery_info": {"exchange": "", "routing_key": name()},
                "delivery_tag": tag,
            },
        }
    )


class Room:
    """Is there room in Redis' memory? Looked at once a second.

    The high-water mark leaves room for what must always work: recording what a worker holds, and queueing retries.
    """

    HIGH_WATER = 0.8
    LOOK_EVERY = 1.0

    def __init__(self) -> None:
        self._next_look = 0.0
        self._full = False

    def due(self) -> bool:
        return time.monotonic() >= self._next_look

    def learn(self, memory: Mapping[str, Any]) -> None:
        """Take over the answer of INFO memory."""
        self._next_look = time.monotonic() + self.LOOK_EVERY
        limit = int(memory.get("maxmemory", 0))
        self._full = bool(limit) and int(memory["used_memory"]) > self.HIGH_WATER * limit

    def check(self) -> None:
        """Raise Problem when there is none."""
        if self._full:
            raise queue_full()


class AsyncQueue:
    """Scripts for the accept path. An answer later than REDIS_TIMEOUT counts as none."""

    def __init__(self) -> None:
        self._client = redis.asyncio.Redis.from_url(settings.REDIS_URL, retry=Retry(NoBackoff(), 0), **_options())
        self._room = Room()
        self._claim = self._client.register_script(CLAIM)
        self._commit = self._client.register_script(COMMIT)

    async def claim(self, call: Call) -> list[bytes]:
        """Run CLAIM. Raises Problem."""
        answers: list[bytes] = await self._run(self._claim, call)
        return answers

    async def commit(self, call: Call) -> list[int]:
        """Run COMMIT. Raises Problem."""
        return _not_full(await self._run(self._commit, call))

    async def _run(self, script: Any, call: Call) -> Any:
        try:
            async with asyncio.timeout(settings.REDIS_TIMEOUT):
                if self._room.due():
                    self._room.learn(await self._client.info("memory"))
                self._room.check()
                return await script(keys=call.keys, args=call.arguments)
        except (redis.RedisError, OSError, TimeoutError) as error:
            raise problem_of(error) from None


class SyncQueue:
    """The same for threads: the DRF view, the worker, commands."""

    def __init__(self) -> None:
        self.client = redis.Redis.from_url(settings.REDIS_URL, retry=Retry(NoBackoff(), 0), **_options())
        self._room = Room()
        self._claim = self.client.register_script(CLAIM)
        self._commit = self.client.register_script(COMMIT)

    def claim(self, call: Call) -> list[bytes]:
        """Run CLAIM. Raises Problem."""
        answers: list[bytes] = self._run(self._claim, call)
        return answers

    def commit(self, call: Call) -> list[int]:
        """Run COMMIT. Raises Problem."""
        return _not_full(self._run(self._commit, call))

    def _run(self, script: Any, call: Call) -> Any:
        try:
            if self._room.due():
                self._room.learn(self.client.info("memory"))
            self._room.check()
            return script(keys=call.keys, args=call.arguments)
        except (redis.RedisError, OSError) as error:
            raise problem_of(error) from None


@functools.cache
def sync_queue() -> SyncQueue:
    """Return this process's connection pool to the queue; threads share it."""
    return SyncQueue()


def check_reachable() -> None:
    """Readiness: raise when Redis does not answer within REDIS_TIMEOUT."""
    sync_queue().client.ping()


def _options() -> dict[str, Any]:
    return {
        "socket_timeout": settings.REDIS_TIMEOUT,
        "socket_connect_timeout": settings.REDIS_TIMEOUT,
        "socket_keepalive": True,
        "max_connections": 64,
    }


def _not_full(answer: list[int]) -> list[int]:
    if answer == FULL:
        raise queue_full()
    return answer


def problem_of(error: Exception) -> Problem:
    """Turn an error of Redis into the Problem the client gets."""
    if isinstance(error, redis.exceptions.OutOfMemoryError) or "OOM" in str(error):
        return queue_full()
    return retry_later("queue_unavailable", "The queue does not answer. Send the message again in a moment.", 5)


def queue_full() -> Problem:
    return retry_later("queue_full", "The queue holds as much as it may. Send the message again later.", 30)
