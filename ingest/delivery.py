"""Carry envelopes to the registry in batches, several at a time, and stop while it is away.

Celery hands each task message to `strategy` (the task's own, in place of Celery's one call per message). Carriers, a
few threads of the worker, post what has come together, up to 100 envelopes at once, and let go of each by what the
registry says of it: stored, or rejected for good. What went wrong otherwise is given back to the queue; nothing is
taken until the registry answers again.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import redis
from celery import bootsteps
from celery.exceptions import WorkerShutdown
from celery.worker import state as celery_state
from django.conf import settings

from ingest import holdings, metrics, parcels, progress
from ingest.batch_limit import BatchLimit
from ingest.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from ingest.events import Events
from ingest.parcels import Parcel
from ingest.queue import TASK
from ingest.registry_client import (
    REJECTED,
    Outcome,
    RegistryAway,
    RegistryChokes,
    RegistryError,
    RegistryRefusesUs,
    RegistrySlow,
    registry,
)
from wire.dead_letters import MALFORMED_ENTRY

logger = logging.getLogger(__name__)

BATCH_ENVELOPES = 100
# Held per carrier: the batch it posts, and the next one.
BATCHES_AHEAD = 2
# Envelopes set aside because the registry cannot digest them, at most; more than that is no matter of single ones.
MAX_ASIDE = 200
MAX_ASIDE_BYTES = 4 << 20
# So many envelopes that fail alone, and none that gets through: it is the registry, not the envelopes.
ALL_FAIL = 5
# Seconds: what is in flight at SIGTERM may still finish; then it is given back, before `progress.END_WITHIN`.
STOP_WITHIN = 6
MAX_PAUSE = 300
# Seconds until a carrier goes on after something that nobody foresaw.
STUMBLE_PAUSE = 1


class Post:
    """The room between Celery's consumer and the carriers."""

    def __init__(self, held: holdings.Holdings, carriers: int) -> None:
        self._held = held
        self._most = carriers * BATCHES_AHEAD * BATCH_ENVELOPES
        self._carriers = [threading.Thread(target=self._run, name="carrier", daemon=True) for _ in range(carriers)]
        self._ready = threading.Condition()
        self._waiting: deque[Parcel] = deque()
        self._aside: deque[tuple[float, Parcel]] = deque()
        self._posting = 0
        self._limit = BatchLimit()
        self._stopping = threading.Event()
        self._turning = threading.Lock()
        self.breaker = Breaker(self._turned)
        self.wake: Callable[[], None] = lambda: None
        self.events = Events()

    def start(self) -> list[threading.Thread]:
        """Start the threads; return those that nothing goes without. Raises RuntimeError."""
        self._held.set_limit(self._most)
        for thread in (*self._carriers, self.events.thread):
            thread.start()
        return self._carriers

    # -- Celery's side

    def take(self, parcel: Parcel) -> None:
        """Put a parcel with the others; `go` sends the carriers."""
        celery_state.task_reserved(parcel)
        self._tell("task-received", parcel, name=TASK, args="", kwargs="", retries=0)
        with self._ready:
            self._waiting.append(parcel)

    def go(self) -> None:
        with self._ready:
            self._ready.notify_all()

    def stop(self) -> None:
        """Take no more; end after what is being posted."""
        self._stopping.set()
        with self._turning:
            self._held.set_limit(0)
        self.go()

    def wait_until_done(self, seconds: float) -> bool:
        """Wait for the carriers; False when one is still posting."""
        deadline = time.monotonic() + seconds
        for carrier in self._carriers:
            carrier.join(max(0.0, deadline - time.monotonic()))
        self.events.stop()
        return not any(carrier.is_alive() for carrier in self._carriers)

    # -- the carriers' side

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                while batch := self._next():
                    self._carry_or_fail(batch)
            except Exception as error:
                # Nobody would miss a carrier that ends here, until the last one has.
                logger.exception("a carrier stumbled", extra={"reason": type(error).__name__})
                self._stopping.wait(STUMBLE_PAUSE)

    def _next(self) -> list[Parcel]:
        """Wait for something to post. An empty list ends the carrier."""
        while not self._stopping.is_set():
            self.breaker.look()
            with self._ready:
                batch = self._batch() if self._may_post() else []
                if batch:
                    self._posting += 1
                    return batch
                # Whoever stops sets the flag first, and then notifies.
                if not self._stopping.is_set():
                    self._ready.wait(self._until_next())
        return []

    def _carry_or_fail(self, batch: Sequence[Parcel]) -> None:
        try:
            self._carry(batch)
        except Exception as error:
            shown = {"reason": type(error).__name__, "count": len(batch), "first": batch[0].id}
            logger.exception("a batch failed", extra=shown)
            self._fail(batch, error)
        finally:
            with self._ready:
                self._posting -= 1
                self._ready.notify()
            self.wake()

    def _may_post(self) -> bool:
        return self.breaker.state == CLOSED or (self.breaker.state == HALF_OPEN and not self._posting)

    def _batch(self) -> list[Parcel]:
        if self._aside and self._aside[0][0] <= time.monotonic():
            return [self._aside.popleft()[1]]
        batch: list[Parcel] = []
        size = 0
        while self._waiting and len(batch) < BATCH_ENVELOPES:
            size += self._waiting[0].size
            if batch and size > self._limit.bytes:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _until_next(self) -> float | None:
        """Return after how many seconds there is something to do that nobody will notify of."""
        if not self._may_post():
            return self.breaker.seconds_left()
        return max(0.05, self._aside[0][0] - time.monotonic()) if self._aside else None

    def _carry(self, batch: Sequence[Parcel]) -> None:
        now = time.time()
        for parcel in batch:
            parcel.started = now
            celery_state.task_accepted(parcel)
            self._tell("task-started", parcel)
        known = batch[0].chokes_registry
        try:
            stuck = self._deliver(batch)
        except RegistryError as error:
            if not (known and isinstance(error, RegistryChokes)):
                self._fail(batch, error)
                return
            # Known for it, and tried alone: that says nothing of the others.
            stuck = list(batch)
        else:
            self.breaker.succeed()
        if stuck:
            self._set_aside(stuck)

    def _deliver(self, batch: Sequence[Parcel]) -> list[Parcel]:
        """Post, in halves where the registry cannot digest the whole; return those it cannot digest alone.

        Raises RegistryError when nothing gets through. What did get through is let go of either way.
        """
        parts = [batch]
        stuck: list[Parcel] = []
        through = 0
        while parts:
            part = parts.pop()
            try:
                self._settle(part, self._post(part))
                through += 1
            except RegistryChokes:
                if len(part) == 1:
                    stuck += part
                    part[0].chokes_registry = True
                    if not through and (len(stuck) == ALL_FAIL or not parts):
                        raise
                else:
                    parts += [part[len(part) // 2 :], part[: len(part) // 2]]
        return stuck

    def _post(self, part: Sequence[Parcel]) -> list[Outcome]:
        metrics.BATCH_ENVELOPES.observe(len(part))
        size = sum(parcel.size for parcel in part)
        began = time.monotonic()
        try:
            with metrics.DELIVER_SECONDS.time():
                outcomes = registry().register([parcel.envelope for parcel in part])
        except RegistrySlow:
            self._limit.shrink(size)
            raise
        # One that had the link to itself says nothing of several.
        if self.breaker.state == CLOSED:
            self._limit.grow(size, time.monotonic() - began)
        return outcomes

    def _settle(self, part: Sequence[Parcel], outcomes: Sequence[Outcome]) -> None:
        """Let go of each by its outcome."""
        metrics.LAST_SUCCESS.set_to_current_time()
        done, rejected = [], {}
        for parcel, outcome in zip(part, outcomes, strict=True):
            metrics.DELIVERIES.labels(outcome.outcome).inc()
            if outcome.outcome == REJECTED:
                rejected[parcel.tag] = outcome.code
            else:
                done.append(parcel.tag)
        self._held.bury(rejected)
        self._held.release(done)
        for parcel in part:
            celery_state.task_ready(parcel, successful=parcel.tag not in rejected)
            self._tell("task-succeeded", parcel, result=None, runtime=time.time() - (parcel.started or 0))

    def _set_aside(self, stuck: Sequence[Parcel]) -> None:
        """Keep those for a try of their own, so that they block nothing."""
        if self.breaker.state != CLOSED:
            self._give_back(stuck)
            return
        again = time.monotonic() + settings.RETRY_SECONDS
        with self._ready:
            self._aside.extend((again, parcel) for parcel in stuck)
            size = sum(parcel.size for _, parcel in self._aside)
            too_many = len(self._aside) > MAX_ASIDE or size > MAX_ASIDE_BYTES
        for parcel in stuck:
            metrics.DELIVERIES.labels("retried").inc()
            logger.error("the registry fails on an envelope", extra={"envelope": parcel.id})
        if too_many:
            self._fail([], RegistryAway("it fails on too many envelopes"))
            return
        try:
            self._held.touch([parcel.tag for parcel in stuck])
        except redis.RedisError:
            # At worst another worker tries it as well.
            logger.warning("Redis is away, an envelope may be tried by two workers")

    def _fail(self, batch: Sequence[Parcel], error: Exception) -> None:
        """Give everything back and pause."""
        try:
            self._open(error, len(batch))
        finally:
            with self._ready:
                waiting = [*batch, *self._waiting, *(parcel for _, parcel in self._aside)]
                self._waiting.clear()
                self._aside.clear()
            try:
                self._give_back([parcel for parcel in waiting if self._held.holds(parcel.tag)])
            except Exception:
                # They go back as overdue. Until then they must take up no room here.
                self._held.forget([parcel.tag for parcel in waiting])
                raise

    def _open(self, error: Exception, failed: int) -> None:
        refused = isinstance(error, RegistryRefusesUs)
        metrics.DELIVERIES.labels("refused" if refused else "retried").inc(failed)
        pause = _pause(error)
        if self.breaker.fail(pause):
            metrics.BREAKER_OPEN.labels("configuration" if refused else "away").set(1)
            logger.log(
                logging.ERROR if refused else logging.WARNING,
                "the registry takes nothing at the moment, everything is kept",
                extra={"reason": f"{type(error).__name__}: {error}"[:300], "next_try_in": round(pause)},
            )

    def _give_back(self, parcels: Sequence[Parcel]) -> None:
        # What may be the cause goes to the far end: at the next try, others come first.
        bad = [parcel.tag for parcel in parcels if parcel.chokes_registry]
        good = [parcel.tag for parcel in parcels if not parcel.chokes_registry]
        for start in range(0, max(len(bad), len(good)), BATCH_ENVELOPES):
            self._held.put_last(bad[start : start + BATCH_ENVELOPES])
            self._held.give_back(good[start : start + BATCH_ENVELOPES])
        for parcel in parcels:
            celery_state.task_ready(parcel)
            self._tell("task-retried", parcel, exception="given back")

    def _turned(self, state: str) -> None:
        """Follow the breaker: how much may be taken, and who is told."""
        limits = {CLOSED: self._most, HALF_OPEN: BATCH_ENVELOPES, OPEN: 0}
        with self._turning:
            # As it is now: another thread may have turned it on since.
            if not self._stopping.is_set():
                self._held.set_limit(limits[self.breaker.state])
        if state == CLOSED:
            for reason in metrics.BREAKER_REASONS:
                metrics.BREAKER_OPEN.labels(reason).set(0)
            logger.info("the registry takes envelopes again")
        self.go()
        self.wake()

    def _tell(self, event: str, parcel: Parcel, **fields: Any) -> None:
        self.events.tell(event, uuid=parcel.id, **fields)


def _pause(error: Exception) -> float:
    wait = error.retry_after if isinstance(error, RegistryAway) else None
    return min(max(1.0, wait), MAX_PAUSE) if wait is not None else float(settings.RETRY_SECONDS)


def strategy(task: Any, app: Any, consumer: Any) -> Callable[..., None]:
    """Return what Celery calls for each message of the task. Called again after each reconnection to Redis."""
    post = current()
    post.wake = lambda: consumer.call_soon(_nothing)
    post.events.follow(consumer)
    scheduled = False

    def go() -> None:
        nonlocal scheduled
        scheduled = False
        post.go()

    def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_options: Any) -> None:
        nonlocal scheduled
        parcel = parcels.read(message)
        if parcel is None:
            holdings.mine().bury({message.delivery_tag: MALFORMED_ENTRY})
            return
        post.take(parcel)
        if not scheduled:
            # When everything that was taken together has arrived.
            scheduled = True
            consumer.call_soon(go)

    return handle


def _nothing() -> None:
    """Wake Celery's event loop, which then sees that there is room."""


_current: list[tuple[Post, holdings.Keeper]] = []


def current() -> Post:
    """Return this process's. It outlives connections: what is in it is held, whatever Redis does meanwhile.

    Raises WorkerShutdown after the worker has left: nothing may begin anew then.
    """
    if not _current:
        raise WorkerShutdown(0)
    return _current[0][0]


def begin() -> None:
    """Start this process's threads. Raises RuntimeError: without them, a worker would only look alive."""
    post, keeper = Post(holdings.mine(), settings.DELIVERY_CONNECTIONS), holdings.Keeper(holdings.mine())
    try:
        progress.rely_on([*post.start(), keeper.start()])
    except RuntimeError:
        post.stop()
        raise
    _current.append((post, keeper))


def stop_taking() -> None:
    """Begin to end: at once, and again without effect."""
    for post, _ in _current:
        post.stop()


def leave() -> None:
    """End: wait a few seconds for what is being posted, then give everything back."""
    while _current:
        post, keeper = _current.pop()
        post.stop()
        if not post.wait_until_done(progress.left_of(STOP_WITHIN)):
            logger.warning("the registry is slow to answer, what it was sent is given back and sent again later")
        keeper.stop()
        try:
            holdings.mine().leave()
        except redis.RedisError as error:
            logger.warning("Redis is away, another worker gives back what we held", extra={"reason": str(error)[:200]})


class Step(bootsteps.StartStopStep):
    """Starts and ends with Celery's worker, whoever ends it: SIGTERM, the stop event, `control shutdown`."""

    def start(self, parent: Any) -> None:
        begin()

    def close(self, parent: Any) -> None:
        progress.note_end(parent.exitcode or 0)
        stop_taking()

    def stop(self, parent: Any) -> None:
        leave()

    def terminate(self, parent: Any) -> None:
        leave()
