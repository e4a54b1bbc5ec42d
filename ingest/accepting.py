"""Accept a request: from its parts to the answer. One set of steps, for an event loop and for threads."""

import asyncio
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from certs_app.identity import Peer
from ingest import groups, metrics, parsing
from ingest.groups import Intake
from ingest.ledger import ledger
from ingest.queue import AsyncQueue, no_answer
from ingest.rate_limit import RateLimiter, RateLimits
from ingest.sealer import Sealer, Sealing
from wire import rules
from wire.ids import following
from wire.problems import Problem, retry_later

logger = logging.getLogger(__name__)

MAX_WAITING = 1000


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: status 202 and the headers that go with it."""

    body: bytes
    headers: dict[str, str]
    status: int = 202


class Acceptor:
    """The group commit: what arrives in one tick of the event loop shares seal, signature, round trip."""

    def __init__(self) -> None:
        self.sealing = Sealing()
        self.limiter = RateLimiter(RateLimits(settings.RATE_LIMIT_PER_MINUTE, settings.RATE_LIMITS_FILE))
        self.ledger = ledger()
        self._queue = AsyncQueue()
        self._waiting: deque[Waiting] = deque()
        self._running: asyncio.Task[None] | None = None

    def begin(self, peer: Peer, parsed: parsing.Parsed) -> Intake:
        """Make ids for a request, unless its client is known to be over its limit. Raises Problem."""
        intake = Intake.start(peer, parsed, time.time())
        self.limiter.check(peer.name, intake.cost)
        return intake

    async def accept(self, intake: Intake) -> dict[str, str]:
        """Wait until `intake` is queued or known as a replay, then return headers for the answer.

        Raises Problem, within REDIS_TIMEOUT.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise retry_later("queue_unavailable", "More is waiting than the queue takes. Send the message again.", 1)
        waiting = Waiting(intake, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(settings.REDIS_TIMEOUT):
                await waiting.future
        except TimeoutError:
            raise no_answer() from None
        return self.limiter.headers(intake.peer.name)

    async def close(self) -> None:
        await self._queue.close()

    async def _run(self) -> None:
        # One turn of the loop: everything that is being read right now joins this group.
        await asyncio.sleep(0)
        while self._waiting:
            group = self._next_group()
            try:
                await self._accept(group)
            except Problem as problem:
                _refuse(group, problem)
            except Exception as error:
                logger.exception("a group could not be committed", extra={"reason": type(error).__name__})
                _refuse(group, Problem("internal_error", "The message was not accepted. Send it again."))

    def _next_group(self) -> list["Waiting"]:
        group: list[Waiting] = []
        size = 0
        while self._waiting and size < groups.MAX_GROUP_MESSAGES:
            group.append(self._waiting.popleft())
            size += group[-1].intake.cost
        return group

    async def _accept(self, group: list["Waiting"]) -> None:
        # First: a claim must not be made for what cannot be signed.
        sealer = self.sealing.current()
        group = self._within_limits(_open(group))
        await self._claim(group)
        group = _open(group)
        over = await self._commit(group, sealer, self.limiter.limits_of({one.intake.peer.name: 0 for one in group}))
        if over:
            for place in over:
                self._refuse_over(group[place], self.limiter.left(group[place].intake.peer.name))
            group = _open(group)
            # These have paid: nobody can be over its limit a second time.
            await self._commit(group, sealer, {})
        for one in group:
            one.finish()

    def _within_limits(self, group: list["Waiting"]) -> list["Waiting"]:
        """Refuse what is known not to fit: Redis would, but only after it was sealed."""
        left: dict[str, float] = {}
        for one in group:
            client, cost = one.intake.peer.name, one.intake.cost
            left.setdefault(client, self.limiter.left(client))
            if cost <= left[client]:
                left[client] -= cost
            else:
                self._refuse_over(one, left[client])
        return _open(group)

    def _refuse_over(self, one: "Waiting", left: float) -> None:
        one.refuse(self.limiter.refusal(one.intake.peer.name, one.intake.cost, left))

    async def _claim(self, group: list["Waiting"]) -> None:
        """Claim the idempotency keys, and refuse those that another request holds."""
        keyed = [one for one in group if one.intake.is_keyed]
        if not keyed:
            return
        answers = await self._queue.claim(groups.claim([one.intake for one in keyed], time.time()))
        for one, answer in zip(keyed, answers, strict=True):
            problem = groups.settle(one.intake, answer)
            if problem is not None:
                one.refuse(problem)

    async def _commit(self, group: list["Waiting"], sealer: Sealer, limits: dict[str, int]) -> Sequence[int]:
        """Queue a group, or nothing of it: then return the places of those over their limits."""
        if not group:
            return ()
        intakes = [one.intake for one in group]
        with metrics.COMMIT_SECONDS.time():
            commit = groups.commit(intakes, sealer, time.time(), settings.MAX_QUEUE_LENGTH, limits)
            committed = await self._queue.commit(commit.call)
        for client, left in zip(limits, committed.left, strict=True):
            self.limiter.learn(client, left)
        if not committed.over:
            # On the event loop: one write of some hundred bytes to the page cache costs less than a thread.
            self.ledger.record(commit.lines)
            metrics.GROUP_MESSAGES.observe(sum(intake.cost for intake in intakes))
        return committed.over


@dataclass(frozen=True, eq=False)
class Waiting:
    """A request and whoever waits for its outcome."""

    intake: Intake
    future: "asyncio.Future[None]"

    def finish(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def refuse(self, problem: Problem) -> None:
        if not self.future.done():
            self.future.set_exception(problem)


def _open(group: list[Waiting]) -> list[Waiting]:
    """Leave out whoever has an answer already or has gone away: it must not be queued behind its back."""
    return [one for one in group if not one.future.done()]


def _refuse(group: list[Waiting], problem: Problem) -> None:
    for one in group:
        one.refuse(problem)


class ThreadedAcceptor:
    """The same for threads, where only WSGI runs: one acceptor, on an event loop of its own, for all of them."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="accepting", daemon=True)
        self._thread.start()
        self._acceptor = Acceptor()
        self.limiter = self._acceptor.limiter
        self.begin = self._acceptor.begin

    def accept(self, intake: Intake) -> dict[str, str]:
        """Do as Acceptor.accept. Raises Problem."""
        outcome = asyncio.run_coroutine_threadsafe(self._acceptor.accept(intake), self._loop)
        try:
            # Acceptor.accept keeps to its second; this is for a loop that does not run.
            return outcome.result(2 * settings.REDIS_TIMEOUT)
        except TimeoutError:
            outcome.cancel()
            raise no_answer() from None

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._acceptor.close(), self._loop).result(settings.REDIS_TIMEOUT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(settings.REDIS_TIMEOUT)
        self._loop.close()


def single_answer(intake: Intake, headers: dict[str, str]) -> Answer:
    """Answer POST /submit."""
    uid = str(intake.first_id)
    metrics.MESSAGES.labels("accepted").inc(not intake.replayed)
    body = b'{"id":"' + uid.encode() + b'","status":"queued"}'
    return Answer(body, {"Location": f"/messages/{uid}", **_replayed(intake), **headers})


def batch_answer(intake: Intake, headers: dict[str, str]) -> Answer:
    """Answer POST /submit/batch: an id or the errors for each message, by its index."""
    results: list[dict[str, Any]] = []
    accepted = 0
    for index, one in enumerate(intake.parsed.checked):
        if isinstance(one, rules.Submission):
            results.append({"index": index, "id": str(following(intake.first_id, accepted))})
            accepted += 1
        else:
            errors = [error.as_dict() for error in one.errors]
            results.append({"index": index, "code": "invalid_message", "errors": errors})
    rejected = len(results) - accepted
    if not intake.replayed:
        metrics.MESSAGES.labels("accepted").inc(accepted)
        metrics.MESSAGES.labels("rejected").inc(rejected)
    document = {"accepted": accepted, "rejected": rejected, "results": results}
    return Answer(json.dumps(document, separators=(",", ":")).encode(), {**_replayed(intake), **headers})


def _replayed(intake: Intake) -> dict[str, str]:
    return {"Idempotency-Replayed": "true"} if intake.replayed else {}
