"""From a plain connection to a TLS one: with a deadline, under the newest context, and never without a reason.

uvicorn hands its one context to asyncio for good, and asyncio drops a refused handshake in silence. So uvicorn listens
without TLS and makes one of these for each connection; the HTTP protocol takes over once the handshake is done.
"""

import asyncio
import functools
import ssl
from collections.abc import Callable, Sized
from typing import Any, cast

from django.conf import settings
from uvicorn.server import ServerState

from certs_app.refusals import OVERLOADED, Refusals
from certs_app.tls import Reloading

# Seconds to wait for the other side's close_notify (asyncio's own: 30).
SHUTDOWN_TIMEOUT = 1.0
# Handshakes for which there is room beside MAX_CONNECTIONS established ones: these must still hear `overloaded`.
ROOM_FOR_HANDSHAKES = 64

Serve = Callable[[], asyncio.Protocol]


class Doorway:
    """Leads connections through their handshake. uvicorn calls it for each, like its own protocol classes."""

    def __init__(self, contexts: Reloading, serve: Callable[..., asyncio.Protocol]) -> None:
        self._contexts = contexts
        self._serve = serve
        self._timeout = float(settings.HANDSHAKE_TIMEOUT)
        # The loop keeps no hold of its tasks, so they are kept here: oldest first.
        self._handshakes: dict[asyncio.Task[None], _Arrival] = {}
        self._refusals = Refusals()
        self._closed = False

    def __call__(self, server_state: ServerState, **options: Any) -> asyncio.Protocol:
        serve = functools.partial(self._serve, server_state=server_state, **options)
        return _Arrival(functools.partial(self.enter, serve=serve, established=server_state.connections))

    def enter(self, arrival: "_Arrival", serve: Serve, established: Sized) -> None:
        """Begin a handshake. When there are too many, the oldest gives way.

        Whoever connects in good faith is through in milliseconds, so the oldest is most likely one that only holds a
        place. Closing the newest instead would let a few thousand silent connections lock everybody out.
        """
        full = len(self._handshakes) + len(established) >= settings.MAX_CONNECTIONS + ROOM_FOR_HANDSHAKES
        if self._closed or (full and not self._drop_oldest()):
            self._refusals.note(OVERLOADED, arrival.address)
            arrival.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._handshake(arrival, serve))
        self._handshakes[task] = arrival
        task.add_done_callback(self._ended)

    def close(self) -> None:
        """Let nobody in any more: handshakes under way are broken off."""
        self._closed = True
        while self._handshakes:
            task, arrival = self._handshakes.popitem()
            task.cancel()
            arrival.transport.abort()

    def _drop_oldest(self) -> bool:
        if not self._handshakes:
            return False
        oldest = next(iter(self._handshakes))
        arrival = self._handshakes.pop(oldest)
        self._refusals.note(OVERLOADED, arrival.address)
        oldest.cancel()
        # Itself, too: a task that is cancelled before its first step does nothing at all.
        arrival.transport.abort()
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)

    async def _handshake(self, arrival: "_Arrival", serve: Serve) -> None:
        handover = _Handover()
        try:
            context = self._contexts.current()
            arrival.prepare()
            secured = await asyncio.get_running_loop().start_tls(
                arrival.transport,
                handover,
                context,
                server_side=True,
                ssl_handshake_timeout=self._timeout,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT,
            )
            _check_established(secured)
        except Exception as error:
            # Whatever it was, the connection must not stay open without anybody who watches over it.
            self._refusals.note_error(error, arrival.address)
            arrival.transport.abort()
        else:
            handover.complete(cast(asyncio.Transport, secured), serve)


def _check_established(secured: asyncio.BaseTransport | None) -> None:
    """Raise ConnectionResetError when the connection ended meanwhile: start_tls does not always tell."""
    established: ssl.SSLObject | None = secured.get_extra_info("ssl_object") if secured else None
    if established is None:
        raise ConnectionResetError("closed during the handshake")


class _Arrival(asyncio.Protocol):
    """A connection whose handshake has not begun yet."""

    transport: asyncio.Transport
    address: str

    def __init__(self, enter: Callable[["_Arrival"], None]) -> None:
        self._enter = enter
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.address = str((transport.get_extra_info("peername") or ("",))[0])
        self.transport.pause_reading()
        self._enter(self)

    def data_received(self, data: bytes) -> None:
        # uvloop begins to read after connection_made, paused or not: the ClientHello may be faster than our task.
        self.transport.pause_reading()
        self._early += data

    def prepare(self) -> None:
        """Have start_tls, which must follow at once, begin with what has come already. Raises ConnectionResetError."""
        if self.transport.is_closing():
            raise ConnectionResetError("closed before the handshake")
        if self._early:
            # Called after start_tls has put its protocol in our place, and before that begins its handshake.
            asyncio.get_running_loop().call_soon(self._replay)

    def _replay(self) -> None:
        tls = cast(asyncio.BufferedProtocol, self.transport.get_protocol())
        memoryview(tls.get_buffer(len(self._early)))[: len(self._early)] = self._early
        tls.buffer_updated(len(self._early))


class _Handover(asyncio.Protocol):
    """Keeps what comes between the handshake's end and the moment its task goes on: the whole request, often."""

    def __init__(self) -> None:
        self._early: list[bytes] = []
        self._lost = False
        self._served: asyncio.Protocol | None = None

    def complete(self, secured: asyncio.Transport, serve: Serve) -> None:
        """Let the HTTP protocol take over."""
        if self._lost:
            return
        self._served = serve()
        secured.set_protocol(self._served)
        self._served.connection_made(secured)
        for data in self._early:
            self._served.data_received(data)

    def data_received(self, data: bytes) -> None:
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        # Scheduled before the HTTP protocol took over, called after: it is the one that has to know.
        if self._served is not None:
            self._served.connection_lost(exc)
