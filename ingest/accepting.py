"""Accept a request: from its parts to the answer. One set of steps, driven by asyncio or by a thread."""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from certs_app.identity import Peer
from ingest import groups, metrics, parsing
from ingest.groups import Intake
from ingest.queue import AsyncQueue, SyncQueue, sync_queue
from ingest.rate_limit import WINDOW, RateLimiter
from ingest.sealer import Sealing
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
    """What both ways share: the rules of one request before and after its commit."""

    def __init__(self) -> None:
        self.sealing = Sealing()
        self.limiter = RateLimiter(settings.RATE_LIMIT_PER_MINUTE)

    def begin(self, peer: Peer, parsed: parsing.Parsed) -> tuple[Intake, dict[str, str]]:
        """Count the request against its client's limit, bad messages included: they cost as much. Raises Problem."""
        now = time.time()
        headers = self.limiter.admit(peer.name, len(parsed.checked), now)
        return Intake.start(peer, parsed, now), headers

    def learn(self, intakes: Sequence[Intake], totals: Sequence[int], now: float) -> None:
        for client, total in zip(groups.rate_counts(intakes), totals, strict=True):
            self.limiter.learn(client, int(now) // WINDOW, total)


class AsyncAcceptor(Acceptor):
    """The accept path's group commit: what arrives in one tick of the event loop shares seal, signature, round trip."""

    def __init__(self) -> None:
        super().__init__()
        self._queue = AsyncQueue()
        self._waiting: deque[tuple[Intake, asyncio.Future[None]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def accept(self, intake: Intake) -> None:
        """Wait until `intake` is queued or known as a replay. Raises Problem, within REDIS_TIMEOUT."""
        if len(self._waiting) >= MAX_WAITING:
            raise retry_later("queue_unavailable", "More is waiting than the queue takes. Send the message again.", 1)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((intake, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(settings.REDIS_TIMEOUT):
                await future
        except TimeoutError:
            raise retry_later("queue_unavailable", "The queue does not answer. Send the message again.", 5) from None

    async def _run(self) -> None:
        # One turn of the loop: everything that is being read right now joins this group.
        await asyncio.sleep(0)
        while self._waiting:
            group = self._next_group()
            try:
                await self._commit(group)
            except Problem as problem:
                _fail(group, problem)
            except Exception as error:
                logger.exception("a group could not be committed", extra={"reason": type(error).__name__})
                _fail(group, Problem("internal_error", "The message was not accepted. Send it again."))

    def _next_group(self) -> dict[int, tuple[Intake, asyncio.Future[None]]]:
        group: dict[int, tuple[Intake, asyncio.Future[None]]] = {}
        size = 0
        while self._waiting and size < groups.MAX_GROUP_MESSAGES:
            intake, future = self._waiting.popleft()
            # Whoever has gone away or has its 503 already must not be queued behind its back.
            if not future.done():
                group[id(intake)] = intake, future
                size += len(intake.parsed.good)
        return group

    async def _commit(self, group: dict[int, tuple[Intake, asyncio.Future[None]]]) -> None:
        # First: a claim must not be made for what cannot be signed.
        sealer = self.sealing.current()
        intakes = [intake for intake, _ in group.values()]
        keyed = [intake for intake in intakes if intake.parsed.key is not None]
        if keyed:
            answers = await self._queue.claim(groups.claim(keyed, time.time()))
            for intake, answer in zip(keyed, answers, strict=True):
                problem = groups.settle(intake, answer)
                future = group[id(intake)][1]
                if problem or intake.replayed:
                    intakes.remove(intake)
                    _finish(future, problem)
        if intakes:
            now = time.time()
            call = groups.commit(intakes, sealer, now, settings.MAX_QUEUE_LENGTH)
            with metrics.COMMIT_SECONDS.time():
                totals = await self._queue.commit(call)
            metrics.GROUP_MESSAGES.observe(sum(groups.rate_counts(intakes).values()))
            self.learn(intakes, totals, now)
        for _, future in group.values():
            _finish(future, None)


def _finish(future: asyncio.Future[None], problem: Problem | None) -> None:
    if future.done():
        return
    if problem is None:
        future.set_result(None)
    else:
        future.set_exception(problem)


def _fail(group: dict[int, tuple[Intake, asyncio.Future[None]]], problem: Problem) -> None:
    for _, future in group.values():
        _finish(future, problem)


class SyncAcceptor(Acceptor):
    """The same steps for one request in a thread, where only WSGI runs."""

    def __init__(self, queue: SyncQueue | None = None) -> None:
        super().__init__()
        self._queue = queue or sync_queue()

    def accept(self, intake: Intake) -> None:
        """Queue `intake`, or find that it is a replay. Raises Problem."""
        sealer = self.sealing.current()
        if intake.parsed.key is not None:
            (answer,) = self._queue.claim(groups.claim([intake], time.time()))
            problem = groups.settle(intake, answer)
            if problem:
                raise problem
        if not intake.replayed:
            now = time.time()
            totals = self._queue.commit(groups.commit([intake], sealer, now, settings.MAX_QUEUE_LENGTH))
            self.learn([intake], totals, now)


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
