"""uvicorn with direct TLS, on every OS: deadlines, body limits, and the verified caller in the request's scope."""

import asyncio
import logging
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import uvicorn
from django.conf import settings
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from certs_app.admission import PEER
from certs_app.identity import IdentityError, Peer
from certs_app.tls import TlsFiles, listening_context
from wire.problems import MEDIA_TYPE, Problem

logger = logging.getLogger(__name__)

if sys.platform == "win32":
    _EventLoop = asyncio.ProactorEventLoop
else:
    import uvloop

    _EventLoop = uvloop.Loop

STOP_WITHIN = timedelta(seconds=8)


class DeadlineLoop(_EventLoop):  # type: ignore[misc]  the base is chosen by platform
    """An event loop whose TLS handshakes have our deadline; asyncio's own is 60 s and uvicorn passes none."""

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = settings.HANDSHAKE_TIMEOUT
            options["ssl_shutdown_timeout"] = 1.0
        return cast(asyncio.Server, await super().create_server(*args, **options))


class PeerProtocol(HttpToolsProtocol):
    """HTTP/1.1 over TLS: puts the caller into the scope, and bounds how long and how large a request may be."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  as in uvicorn
        super().connection_made(transport)
        self.peer = _peer(transport)
        self.deadline: asyncio.TimerHandle | None = None
        self.refused = False
        self.received = 0
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.received = 0
        scope = cast(dict[str, Any], self.scope)
        scope[PEER] = self.peer
        self._start_deadline()

    def on_headers_complete(self) -> None:
        if self.refused:
            return
        for name, value in self.headers:
            if name == b"content-length" and int(value) > settings.MAX_BODY_BYTES:
                self._refuse_too_large()
                return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.refused:
            return
        self.received += len(body)
        if self.received > settings.MAX_BODY_BYTES:
            self._refuse_too_large()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_deadline()
        if not self.refused:
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        if not self.refused:
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem("malformed_request", "This is not HTTP/1.1 as we understand it."))

    def _refuse_too_large(self) -> None:
        self._refuse(Problem("too_large", f"A request body holds at most {settings.MAX_BODY_BYTES} bytes."))

    def _refuse(self, problem: Problem) -> None:
        """Answer without the application and close: the rest of the request is not read."""
        self.refused = True
        body = problem.body()
        head = (
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        ).encode()
        self.transport.write(STATUS_LINE[problem.status] + head + body)
        self.transport.close()

    def _start_deadline(self) -> None:
        self._stop_deadline()
        self.deadline = self.loop.call_later(settings.REQUEST_TIMEOUT, self._abort)

    def _stop_deadline(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def _abort(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


def _peer(transport: asyncio.Transport) -> Peer | None:
    connection = transport.get_extra_info("ssl_object")
    der = connection.getpeercert(binary_form=True) if connection else None
    if der is None:
        return None
    try:
        return Peer.from_der(der, settings.TRUST_DOMAIN)
    except IdentityError as error:
        logger.warning("a certificate of our CA names no identity we know", extra={"reason": str(error)})
        return None


def new_event_loop() -> asyncio.AbstractEventLoop:
    return cast(asyncio.AbstractEventLoop, DeadlineLoop())


@dataclass(frozen=True)
class Listener:
    """Where to listen, with which files, and whether callers must show a certificate."""

    host: str
    port: int
    files: TlsFiles
    client_certificates: bool = True


def build_server(application: Any, listener: Listener, *, lifespan: str = "off") -> uvicorn.Server:
    """Build the server; `.run()` serves until SIGINT or SIGTERM, then finishes what is under way.

    Raises OSError, ssl.SSLError or UnsafeFile when a certificate or key cannot be used.
    """
    context = listening_context(listener.files, client_certificates=listener.client_certificates)
    config = uvicorn.Config(
        application,
        host=listener.host,
        port=listener.port,
        http=PeerProtocol,
        ws="none",
        loop="certs_app.server:new_event_loop",
        lifespan=lifespan,  # type: ignore[arg-type]  "on" and "off" are its literals
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=settings.MAX_CONNECTIONS,
        timeout_keep_alive=settings.KEEP_ALIVE,
        timeout_graceful_shutdown=int(STOP_WITHIN.total_seconds()),
        ssl_context_factory=lambda _config, _default: context,
    )
    return uvicorn.Server(config)
