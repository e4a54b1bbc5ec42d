"""uvicorn with direct TLS, on every OS: who is let in, and who has to go because its certificate no longer stands."""

import asyncio
import logging
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import uvicorn
from django.conf import settings
from django.utils import timezone

from certs_app.doorway import Doorway
from certs_app.http_protocol import PeerProtocol
from certs_app.revocation import Revocations
from certs_app.tls import TlsFiles, server_contexts
from wire.problems import Problem

logger = logging.getLogger(__name__)

if sys.platform == "win32":
    _EventLoop = asyncio.ProactorEventLoop
else:
    import uvloop

    _EventLoop = uvloop.Loop

# Less than the five seconds after which the supervisor kills: what is under way ends by itself, or not at all.
STOP_WITHIN = timedelta(seconds=4)
# uvicorn ticks every 0.1 s. A look at a connection costs about 2 µs.
LOOK_EVERY_TICKS = 5


def new_event_loop() -> asyncio.AbstractEventLoop:
    return cast(asyncio.AbstractEventLoop, _EventLoop())


@dataclass(frozen=True)
class Listener:
    """Where to listen, with which files, and whether callers must show a certificate."""

    host: str
    port: int
    files: TlsFiles
    client_certificates: bool = True


class Server(uvicorn.Server):
    """A server whose open connections end with the certificates they were opened with."""

    def __init__(self, config: uvicorn.Config, doorway: Doorway, revocations: Revocations) -> None:
        super().__init__(config)
        self._doorway = doorway
        self._revocations = revocations

    async def on_tick(self, counter: int) -> bool:
        if counter % LOOK_EVERY_TICKS == 0:
            self._close_refused(timezone.now())
        return await super().on_tick(counter)

    def _close_refused(self, now: datetime) -> None:
        for connection in list(self.server_state.connections):
            caller = cast(PeerProtocol, connection)
            if caller.peer is None:
                continue
            try:
                self._revocations.check(caller.peer, now)
            except Problem as problem:
                # Without a list nobody is served either way; whoever is still connected then needs no new handshake.
                if problem.code != "revocation_unknown":
                    caller.end(problem.code)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._doorway.close()
        await super().shutdown(sockets)

    def _log_started_message(self, listeners: Sequence[socket.SocketType]) -> None:
        # uvicorn knows nothing of our TLS: its own line would say http://.
        for listening in listeners:
            host, port = listening.getsockname()[:2]
            logger.info("listening with TLS", extra={"address": host, "port": port})


def build_server(application: Any, listener: Listener, *, lifespan: str = "off") -> Server:
    """Build the server; `.run()` serves until SIGINT or SIGTERM, then finishes what is under way.

    Raises OSError, ssl.SSLError, ValueError or UnsafeFile when a certificate, key or list cannot be used.
    """
    contexts = server_contexts(listener.files, client_certificates=listener.client_certificates)
    doorway = Doorway(contexts, PeerProtocol)
    config = uvicorn.Config(
        application,
        host=listener.host,
        port=listener.port,
        http=doorway,  # type: ignore[arg-type]  # called like a protocol class, with the same arguments
        ws="none",
        loop="certs_app.server:new_event_loop",
        lifespan=lifespan,  # type: ignore[arg-type]  # "on" and "off" are its literals
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.KEEP_ALIVE,
        timeout_graceful_shutdown=int(STOP_WITHIN.total_seconds()),
    )
    return Server(config, doorway, Revocations(listener.files.crl, listener.files.ca))
