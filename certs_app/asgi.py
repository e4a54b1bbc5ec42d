"""The few words of ASGI that our own small applications speak: read a body, send an answer."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings

from wire.problems import MEDIA_TYPE, Problem

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = "application/json"


@dataclass
class Answer:
    """A whole answer."""

    status: int
    body: bytes
    media_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem) -> "Answer":
        return cls(problem.status, problem.body(), MEDIA_TYPE, problem.headers)


class Disconnected(Exception):
    """The client went away before its request was complete."""


async def read_body(receive: Receive) -> bytes:
    """Read a request's body. Raises Disconnected, and Problem over MAX_BODY_BYTES."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        # Our own server refuses this earlier; behind a terminator nobody else does.
        if size > settings.MAX_BODY_BYTES:
            raise Problem("too_large", f"A request body holds at most {settings.MAX_BODY_BYTES} bytes.")
        if not message.get("more_body"):
            return b"".join(parts)


async def send_answer(
    send: Send, status: int, body: bytes, headers: Mapping[str, str], *, media_type: str = JSON
) -> None:
    """Send a whole answer."""
    own = {"content-type": media_type, "content-length": str(len(body))}
    pairs = [(name.lower().encode(), value.encode()) for name, value in {**own, **headers}.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def send_problem(send: Send, problem: Problem) -> None:
    """Send a Problem."""
    await send_answer(send, problem.status, problem.body(), problem.headers, media_type=MEDIA_TYPE)
