"""The queue on Redis: the Celery message format, the scripts that write to it, and the clients that reach it."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
import redis
import redis.exceptions
from django.conf import settings

from ingest import redis_servers
from wire.problems import Problem, retry_later

TASK = "ingest.deliver"

# Redis' memory for an envelope of one message of 120 characters: 1,090 bytes, and 410 more when it came with an
# Idempotency-Key, which is remembered beside it. Measured with 20,000 of each in Valkey 9.1; a test holds to it.
ENVELOPE_BYTES = 1500
# For all the rest: buckets, what connections hold, Redis itself.
OTHER_BYTES = 64 << 20

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

# Charge the clients, queue envelopes, mark idempotency keys done. Nothing is queued when the queue is full ("full"), or
# when a client's bucket does not hold what one of its requests costs ("over"): then the others have paid, and come
# again without it. Either way the claims of whoever is refused are let go.
# KEYS: queue, idempotency keys, buckets. ARGV: the plan (JSON, see groups.commit), then the envelopes.
# Answers {state, places of the requests that are over (from 0), thousandths of tokens left in each bucket}.
COMMIT = """
local plan = cjson.decode(ARGV[1])
local keyed = #plan.records
local function let_go(i)
  local held = redis.call('GET', KEYS[1 + i])
  if held and string.sub(held, 1, 8) == 'pending|' then redis.call('DEL', KEYS[1 + i]) end
end
if redis.call('LLEN', KEYS[1]) + #ARGV - 1 > plan.most then
  for i = 1, keyed do let_go(i) end
  return {'full', {}, {}}
end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local left, over, is_over = {}, {}, {}
for b, limit in ipairs(plan.limits) do
  local held, at = string.match(redis.call('GET', KEYS[1 + keyed + b]) or '', '^([^|]+)|([^|]+)$')
  left[b] = limit
  if held then
    left[b] = math.min(limit, tonumber(held) + math.max(0, now - tonumber(at)) * limit / plan.window)
  end
end
for place, cost in ipairs(plan.costs) do
  local b = cost[1]
  if b > 0 and left[b] < cost[2] then
    over[#over + 1] = place - 1
    is_over[place] = true
  elseif b > 0 then
    left[b] = left[b] - cost[2]
  end
end
for b, tokens in ipairs(left) do
  redis.call('SET', KEYS[1 + keyed + b], string.format('%.6f|%.6f', tokens, now), 'EX', plan.window + 1)
  left[b] = math.floor(tokens * 1000)
end
if #over > 0 then
  for i = 1, keyed do
    if is_over[plan.payers[i]] then let_go(i) end
  end
  return {'over', over, left}
end
for i = 2, #ARGV do redis.call('LPUSH', KEYS[1], ARGV[i]) end
for i = 1, keyed do redis.call('SET', KEYS[1 + i], plan.records[i], 'EX', plan.keep) end
redis.call('INCRBY', 'msgsys:accepted', plan.messages)
return {'queued', {}, left}
"""


@dataclass(frozen=True)
class Committed:
    """What a commit did.

    `over`: places of the requests whose clients are over their limits; when there are any, nothing was queued at all.
    `left`: what each bucket of the call holds now.
    """

    over: Sequence[int]
    left: Sequence[float]


@dataclass(frozen=True)
class Call:
    """One script call."""

    keys: Sequence[str]
    arguments: Sequence[str | bytes] = field(repr=False)


def name() -> str:
    return str(settings.QUEUE_NAME)


def memory_needed() -> int:
    """Return the maxmemory with which Redis holds MAX_QUEUE_LENGTH envelopes of one message, and is not full yet."""
    used = OTHER_BYTES + settings.MAX_QUEUE_LENGTH * ENVELOPE_BYTES
    return int(used * 100 // settings.QUEUE_MEMORY_PERCENT)


def task_message(envelope_id: UUID | str, envelope: str) -> bytes:
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

    LOOK_EVERY = 1.0

    def __init__(self) -> None:
        self._next_look = 0.0
        self._full = False

    def due(self) -> bool:
        return time.monotonic() >= self._next_look

    def learn(self, memory: Mapping[str, Any]) -> None:
        """Take over the answer of INFO memory; empty when we may not ask: Redis itself then says when it is full."""
        self._next_look = time.monotonic() + self.LOOK_EVERY
        limit = int(memory.get("maxmemory", 0))
        used = int(memory.get("used_memory", 0))
        self._full = bool(limit) and used * 100 > settings.QUEUE_MEMORY_PERCENT * limit

    def check(self) -> None:
        """Raise Problem when there is none."""
        if self._full:
            raise queue_full()


class AsyncQueue:
    """Scripts for the accept path. An answer later than REDIS_TIMEOUT counts as none."""

    def __init__(self) -> None:
        self._client = redis_servers.async_client(**_options())
        self._room = Room()
        self._claim = self._client.register_script(CLAIM)
        self._commit = self._client.register_script(COMMIT)

    async def close(self) -> None:
        await redis_servers.close(self._client)

    async def claim(self, call: Call) -> list[bytes]:
        """Run CLAIM. Raises Problem."""
        async with _answering():
            await self._check_room()
            answers: list[bytes] = await self._claim(keys=call.keys, args=call.arguments)
        return answers

    async def commit(self, call: Call) -> Committed:
        """Run COMMIT, and wait for the replicas. Raises Problem; the messages may then be queued all the same."""
        async with _answering():
            await self._check_room()
            (state, over, left), replicas = await self._commit_and_wait(call)
        if state == b"full":
            raise queue_full()
        if state == b"queued" and replicas < settings.WAIT_REPLICAS:
            raise retry_later("queue_unavailable", "Too few copies of the queue have the message. Send it again.", 5)
        return Committed(over, [thousandths / 1000 for thousandths in left])

    async def _check_room(self) -> None:
        if self._room.due():
            self._room.learn(await self._memory())
        self._room.check()

    async def _memory(self) -> Mapping[str, Any]:
        try:
            memory: Mapping[str, Any] = await self._client.info("memory")
        except redis.exceptions.NoPermissionError:
            return {}
        return memory

    async def _commit_and_wait(self, call: Call) -> tuple[Any, int]:
        """Return the script's answer and how many replicas have what it wrote."""
        if not settings.WAIT_REPLICAS:
            return await self._commit(keys=call.keys, args=call.arguments), 0
        try:
            return await self._in_one_trip(call)
        except redis.exceptions.NoScriptError:
            await self._client.script_load(COMMIT)
            return await self._in_one_trip(call)

    async def _in_one_trip(self, call: Call) -> tuple[Any, int]:
        # WAIT speaks for what was written on its own connection: a pipeline has one.
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.evalsha(self._commit.sha, len(call.keys), *call.keys, *call.arguments)
            pipeline.wait(settings.WAIT_REPLICAS, settings.WAIT_REPLICAS_MS)
            answer, replicas = await pipeline.execute()
        return answer, replicas


@contextlib.asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    """Turn no answer in time, and every error of Redis, into a Problem."""
    try:
        async with asyncio.timeout(settings.REDIS_TIMEOUT):
            yield
    except (redis.RedisError, OSError, TimeoutError) as error:
        raise problem_of(error) from None
    except RuntimeError as error:
        # uvloop's word for a connection that was reset while it was being made.
        if "the handler is closed" not in str(error):
            raise
        raise problem_of(ConnectionResetError()) from None


class SyncQueue:
    """A client for threads: the worker, commands, readiness."""

    def __init__(self) -> None:
        self.client = redis_servers.client(**_options())


def connect() -> redis.Redis:
    """Return a client for the worker: it may wait longer than a caller of ingest."""
    patient = {**_options(), "socket_timeout": 5, "socket_connect_timeout": 2}
    return redis_servers.client(**patient)


@functools.cache
def sync_queue() -> SyncQueue:
    """Return this process's connection pool to the queue; threads share it."""
    return SyncQueue()


def _options() -> dict[str, Any]:
    return {
        "socket_timeout": settings.REDIS_TIMEOUT,
        "socket_connect_timeout": settings.REDIS_TIMEOUT,
        "socket_keepalive": True,
        "max_connections": 64,
    }


def problem_of(error: Exception) -> Problem:
    """Turn an error of Redis into the Problem the client gets."""
    if isinstance(error, redis.exceptions.OutOfMemoryError) or "OOM" in str(error):
        return queue_full()
    return no_answer()


def no_answer() -> Problem:
    return retry_later("queue_unavailable", "The queue does not answer. Send the message again in a moment.", 5)


def queue_full() -> Problem:
    return retry_later("queue_full", "The queue holds as much as it may. Send the message again later.", 30)
