"""Bounds the requests Django works on at once: each takes a thread, and Django itself knows no limit."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from asgiref.sync import ThreadSensitiveContext
from django.conf import settings

from certs_app.admission import ANY_ROLE, PEER, admit
from certs_app.asgi import (
    Answer,
    Application,
    Disconnected,
    Message,
    Receive,
    Scope,
    Send,
    read_body,
    send_answer,
    send_problem,
)
from certs_app.revocation import Revocations
from wire.problems import Problem, retry_later

# Long enough for a page's stylesheets to follow each other, too short for a caller to time out meanwhile.
WAIT_SECONDS = 1.0
_ALIVE = b'{"status": "alive"}'


class DirectRoute(Protocol):
    """What goes past Django (certs_app.direct)."""

    def takes(self, scope: Scope) -> bool: ...

    def answer(self, scope: Scope, body: bytes) -> Answer: ...


class Bounded:
    """At most MAX_CONCURRENT_REQUESTS in `django`, as many again wait for a moment, the rest hear `overloaded`.

    /healthz is answered here, so that a busy process is not taken for a dead one.
    """

    def __init__(
        self, django: Application, *, health_for_anyone: bool = False, direct: Sequence[DirectRoute] = ()
    ) -> None:
        self._django = django
        self._direct = direct
        self._health_for_anyone = health_for_anyone
        self._revocations = Revocations(settings.CRL_FILE, settings.CA_FILE)
        self._slots = asyncio.Semaphore(settings.MAX_CONCURRENT_REQUESTS)
        # Kept from request to request, and with them their database connections: Django alone starts one for each, and
        # to connect costs more than most requests. The last one used comes first: a quiet server has few connections.
        self._threads = [ThreadPoolExecutor(1, "django") for _ in range(settings.MAX_CONCURRENT_REQUESTS)]
        self._may_wait = settings.MAX_CONCURRENT_REQUESTS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["path"] == "/healthz" and scope["method"] in ("GET", "HEAD"):
                self._admit_to_health(scope)
                await send_answer(send, 200, _ALIVE, {"cache-control": "no-store"})
                return
            # Before there is a slot: whoever sends a body slowly must keep nobody else waiting.
            body = await read_body(receive)
            await self._take_slot()
        except Problem as problem:
            await send_problem(send, problem)
            return
        except Disconnected:
            return
        thread = self._threads.pop()
        try:
            await self._serve(thread, scope, body, receive, send)
        finally:
            self._threads.append(thread)
            self._slots.release()

    async def _serve(self, thread: ThreadPoolExecutor, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Return when the thread has done its work, even if the client went away before."""
        direct = next((one for one in self._direct if one.takes(scope)), None)
        if direct is not None:
            answer = await asyncio.get_running_loop().run_in_executor(thread, direct.answer, scope, body)
            await send_answer(send, answer.status, answer.body, answer.headers, media_type=answer.media_type)
            return
        async with ThreadSensitiveContext(executor=thread):
            await self._django(scope, _once(body, receive), send)

    def _admit_to_health(self, scope: Scope) -> None:
        if not self._health_for_anyone:
            admit(scope.get(PEER), ANY_ROLE, self._revocations)

    async def _take_slot(self) -> None:
        if self._may_wait == 0:
            raise _overloaded()
        self._may_wait -= 1
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._slots.acquire()
        except TimeoutError:
            raise _overloaded() from None
        finally:
            self._may_wait += 1


def _overloaded() -> Problem:
    return retry_later("overloaded", "This server works on as many requests as it may. Try again.", 1)


def _once(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that hands over the body first; what follows can only be the client's going away."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
