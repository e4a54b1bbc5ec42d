"""kombu's Redis transport with a fetch that cannot lose a message, for Celery's `broker_transport`.

The stock transport pops an entry and records it as unacknowledged in a second step; a worker killed in between loses
it. Here a blocking peek wakes the worker, and one script moves entries from the queue to what this worker holds
(`ingest.holdings`). Only our own queue is taken this way; replies and remote control go the stock way.

Relies on private names of kombu 5.7 (pinned), which `test_relied_on_kombu.py` holds against the installed version.
"""

import json
import time
from queue import Empty
from typing import Any

from kombu.transport import redis
from redis.exceptions import OutOfMemoryError

from ingest import holdings
from ingest.queue import name as our_queue
from wire.dead_letters import MALFORMED_ENTRY

# Seconds between looks at the queue of a Redis that is full.
FULL_PAUSE = 0.2
# Seconds without an event loop (on Windows) between looks at remote control while there is no room.
ROOM_PAUSE = 0.2


class QoS(redis.QoS):
    """How much may be taken, and what becomes of it, is up to the holdings."""

    def can_consume(self) -> bool:
        if self.channel.is_peeking:
            return holdings.mine().room() > 0
        return bool(super().can_consume())

    def append(self, message: Any, delivery_tag: str) -> None:
        if not self.channel.is_peeking:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        if self.channel.is_peeking:
            holdings.mine().release([delivery_tag])
        else:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not self.channel.is_peeking:
            super().reject(delivery_tag, requeue=requeue)
        elif requeue:
            holdings.mine().give_back([delivery_tag])
        else:
            # Celery lets go of what it cannot make sense of. We keep it.
            holdings.mine().bury({delivery_tag: MALFORMED_ENTRY})

    def restore_visible(self, *args: Any, **options: Any) -> None:
        """Do nothing: what others left is put back by the holdings' keeper, and kombu's own hash stays empty."""

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Keep what is held when the connection to Redis breaks: it is being delivered."""
        if not self.channel.is_peeking:
            super().restore_unacked_once(stderr)


class Channel(redis.Channel):
    """Waits for entries without taking them, then takes and records them in one step."""

    QoS = QoS

    def __init__(self, *args: Any, **options: Any) -> None:
        self.is_peeking = False
        super().__init__(*args, **options)

    def basic_consume(self, queue: str, *args: Any, **options: Any) -> Any:
        if queue == our_queue():
            if len(self.priority_steps) > 1 or self.global_keyprefix:
                raise ValueError("this transport takes one priority and no key prefix")
            self.is_peeking = True
        consumed = super().basic_consume(queue, *args, **options)
        if self.is_peeking and list(self.active_queues) != [our_queue()]:
            raise ValueError(f"a worker that takes {our_queue()} takes no other queue")
        return consumed

    def _queue_bind(self, *args: Any) -> None:
        try:
            super()._queue_bind(*args)  # type: ignore[misc]  # the stubs know public names only
        except OutOfMemoryError:
            # Nothing of ours is routed by bindings, and a full Redis is drained by a worker that starts.
            return

    def _brpop_start(self, timeout: float | None = None) -> None:
        if not self.is_peeking:
            super()._brpop_start(timeout)  # type: ignore[misc]  # the stubs know public names only
            return
        if not self.active_queues:
            return
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        # From the tail to the tail: wakes us when there is an entry, and leaves it where it is.
        wait = timeout or self.brpop_timeout or 0
        self.client.connection.send_command("BLMOVE", our_queue(), our_queue(), "RIGHT", "RIGHT", wait)

    def _brpop_read(self, **options: Any) -> bool:
        if not self.is_peeking:
            return bool(super()._brpop_read(**options))  # type: ignore[misc]  # the stubs know public names only
        try:
            entry = self._read_peek()
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        if entry is None or self._closing or not self.active_queues:
            raise Empty
        return bool(self._claim())

    def _read_peek(self) -> Any:
        try:
            return self.client.parse_response(self.client.connection, "BLMOVE")
        except OutOfMemoryError:
            # A full Redis refuses even the peek, but not the claim, which frees memory: the way out is to go on.
            time.sleep(FULL_PAUSE)
            return True
        except self.connection_errors:
            # The next round connects again.
            self.client.connection.disconnect()
            raise

    def _claim(self) -> bool:
        taken = holdings.mine().claim()
        for position, (tag, entry) in enumerate(taken):
            try:
                self.connection._deliver(json.loads(entry), our_queue())
            except (ValueError, RecursionError):
                # It passed the script, and would end this worker and every next one.
                holdings.mine().bury({tag: MALFORMED_ENTRY})
            except BaseException:
                holdings.mine().give_back([left for left, _ in taken[position:]])
                raise
        if not taken:
            raise Empty
        return True


class SentinelChannel(Channel, redis.SentinelChannel):
    """A channel to whichever Redis the Sentinels name."""


class Poller(redis.MultiChannelPoller):
    """Without an event loop: when there is no room, wait for some instead of for the socket."""

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        if any(channel.is_peeking for channel in self._channels) and not holdings.mine().room():
            holdings.mine().wait_for_room(ROOM_PAUSE)
            timeout = 0 if timeout is None else min(timeout, ROOM_PAUSE)
        return super().get(callback, timeout)


class Transport(redis.Transport):
    """For redis:// and rediss://."""

    Channel = Channel

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.cycle = Poller()


class SentinelTransport(redis.SentinelTransport):
    """For sentinel://."""

    Channel = SentinelChannel

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.cycle = Poller()
