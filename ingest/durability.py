"""Would this Redis keep what it acknowledges? Asked at the start, and as readiness of ingest and the worker."""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import redis
from django.conf import settings

from ingest import queue
from ingest.queue import sync_queue
from wire.problems import Problem

logger = logging.getLogger(__name__)

# The first Redis with BLMOVE.
OLDEST = (6, 2)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the Redis of the queue. `sentence` and `hint` are for people, `number` is stable.

    `stops`: messages are lost or refused now, so the process is not ready. `lasting`: only its configuration cures it.
    `useless`: a worker cannot take from it either.
    """

    number: str
    sentence: str
    hint: str
    stops: bool = True
    lasting: bool = False
    useless: bool = False


@dataclass(frozen=True)
class Told:
    """What Redis told of itself. `info` and `appendfsync` are None when our account may not ask for them."""

    info: Mapping[str, Any] | None
    appendfsync: str | None


def ask(client: redis.Redis) -> Told:
    """Ask Redis about itself. Raises redis.RedisError, OSError when it does not answer."""
    info: Mapping[str, Any] | None
    try:
        info = client.info()
    except redis.exceptions.NoPermissionError:
        client.ping()
        info = None
    try:
        appendfsync = str(client.config_get("appendfsync").get("appendfsync", "")) or None
    except redis.exceptions.ResponseError:
        # Not allowed, or renamed away, as managed services do.
        appendfsync = None
    return Told(info, appendfsync)


def judge(told: Told) -> Iterator[Finding]:
    """Yield what is wrong, the worst first."""
    if told.info is None:
        yield Finding(
            "316",
            "The queue's Redis does not let our account run INFO: nobody knows whether it keeps what it accepts.",
            "Allow it: ACL SETUSER … +info. Without it, memory is not watched either.",
            stops=False,
        )
        return
    yield from _version(told.info)
    yield from _server(told.info)
    yield from _memory(told.info)
    # While it loads, it says that it has no append-only file: the file is opened for writing after that.
    if not _on(told.info, "loading"):
        yield from _file(told)


def _version(info: Mapping[str, Any]) -> Iterator[Finding]:
    # Valkey says here which Redis it is compatible with: 7.2.4.
    version = str(info.get("redis_version", ""))
    if _numbers(version) < OLDEST:
        yield Finding(
            "331",
            f"The queue's Redis is {version}, too old: a worker cannot wait for messages there (BLMOVE).",
            "Use Redis 6.2 or newer, or Valkey.",
            lasting=True,
            useless=True,
        )


def _numbers(version: str) -> tuple[int, ...]:
    """Return (6, 2) of 6.2.5; what is not known counts as new enough."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else OLDEST


def _server(info: Mapping[str, Any]) -> Iterator[Finding]:
    if _on(info, "loading"):
        yield Finding("315", "The queue's Redis is loading its data.", "Wait until it has read its file.")
    if info.get("role", "master") != "master":
        hint = "Let REDIS_URL lead to the primary: after a failover, to the new one."
        yield Finding("314", "The queue's Redis is a replica: nothing can be queued there.", hint)
    # Only ingest has it, and only ingest waits for them.
    wanted = getattr(settings, "WAIT_REPLICAS", 0)
    if int(info.get("connected_slaves", 0)) < wanted:
        yield Finding(
            "321",
            "The queue's Redis has fewer replicas than every message is to be on.",
            "Repair the replicas, or lower MSGSYS_WAIT_REPLICAS: until then ingest answers 503.",
        )


def _memory(info: Mapping[str, Any]) -> Iterator[Finding]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield Finding(
            "311",
            "The queue's Redis throws data away when its memory is full (maxmemory-policy is not noeviction).",
            "Set maxmemory-policy noeviction, in its configuration and with CONFIG SET.",
            lasting=True,
        )
    limit = int(info.get("maxmemory", 0))
    if not limit:
        yield Finding(
            "318",
            "The queue's Redis has no memory limit: a long outage may end with the system killing it.",
            "Set maxmemory to what the machine can spare; ingest refuses at MSGSYS_QUEUE_MEMORY_PERCENT of it.",
            stops=False,
        )
    elif limit < (needed := queue.memory_needed()):
        yield Finding(
            "327",
            "The queue's Redis is full before it holds MSGSYS_MAX_QUEUE_LENGTH envelopes of one short message each.",
            f"Set maxmemory to {needed:,} bytes or more, or lower MSGSYS_MAX_QUEUE_LENGTH.",
            stops=False,
        )


def _file(told: Told) -> Iterator[Finding]:
    assert told.info is not None
    if not _on(told.info, "aof_enabled"):
        allowed = bool(settings.ALLOW_VOLATILE_QUEUE)
        yield Finding(
            "312",
            "The queue's Redis has no append-only file: when it stops, accepted messages are lost.",
            "MSGSYS_ALLOW_VOLATILE_QUEUE accepts it; appendonly yes ends it."
            if allowed
            else "Set appendonly yes. Where that cannot be had, MSGSYS_ALLOW_VOLATILE_QUEUE=1 accepts the loss.",
            stops=not allowed,
            lasting=True,
        )
        return
    if told.info.get("aof_last_write_status", "ok") != "ok":
        hint = "Is its disk full, or broken? Its own log says. Clients get 503 until it writes again."
        yield Finding("313", "The queue's Redis cannot write its append-only file.", hint)
    if told.info.get("aof_last_bgrewrite_status", "ok") != "ok":
        hint = "Its own log says why; memory or disk is short. Until then the file only grows."
        yield Finding("317", "The queue's Redis could not rewrite its append-only file.", hint, stops=False)
    if told.appendfsync == "no":
        hint = "Set appendfsync everysec (up to 2 s) or always (nothing)."
        sentence = "The queue's Redis leaves it to the system when to write to disk: a power cut may cost 30 s or more."
        yield Finding("319", sentence, hint, stops=False)


def _on(info: Mapping[str, Any], name: str) -> bool:
    return str(info.get(name, 0)) == "1"


class Watch:
    """Readiness: raises what stops us, and logs what is wrong each time that something else is."""

    def __init__(self) -> None:
        self._logged: list[Finding] = []

    def __call__(self) -> None:
        """Raise Problem when Redis does not answer within REDIS_TIMEOUT, or would lose messages."""
        try:
            found = list(judge(ask(sync_queue().client)))
        except (redis.RedisError, OSError) as error:
            raise Problem("queue_unavailable", _no_answer(error)) from None
        if found != self._logged:
            self._logged = found
            for one in found:
                reason = {"check": f"msgsys.W{one.number}", "reason": one.sentence}
                logger.warning("the queue's Redis is not as it should be", extra=reason)
        stopping = [one.sentence for one in found if one.stops]
        if stopping:
            raise Problem("queue_unavailable", " ".join(stopping))


check_ready = Watch()


def _no_answer(error: Exception) -> str:
    if isinstance(error, redis.exceptions.AuthenticationError):
        return "The queue's Redis does not take our user name and password."
    if isinstance(error, redis.exceptions.NoPermissionError):
        return "The queue's Redis does not allow our account so much as to ask."
    return f"The queue's Redis does not answer ({type(error).__name__})."
