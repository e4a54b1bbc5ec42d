"""HTTP/1.1 as uvicorn speaks it, with the verified caller in the scope and bounds on every request."""

import asyncio
import logging
from typing import Any, cast

from django.conf import settings
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from certs_app import metrics
from certs_app.admission import PEER
from certs_app.identity import IdentityError, Peer
from wire.problems import MEDIA_TYPE, Problem, retry_later

logger = logging.getLogger(__name__)

# The parser has no limit of its own. A certificate passed on in a header takes 2 KiB; 32 KiB is room enough.
MAX_HEAD_BYTES = 32 * 1024
# How a terminator in front of a server passes the certificate on. Here the certificate comes from TLS alone.
TERMINATOR_HEADER = b"x-ssl-client-cert"


class PeerProtocol(HttpToolsProtocol):
    """HTTP/1.1 over TLS: puts the caller into the scope, and bounds how long and how large a request may be."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self.peer = _peer(transport)
        self.deadline: asyncio.TimerHandle | None = None
        self.write_deadline: asyncio.TimerHandle | None = None
        self.refused = self.ended = False
        self.in_head = self.in_body = False
        self.head_size = self.body_size = self.raw_body_size = 0
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        self._stop_write_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        if self.deadline is None and self._all_answered():
            # Whatever arrives ends uvicorn's keep-alive timer, even blank lines, which begin no request.
            self._start_deadline()
        problem = self._grown_too_large(len(data))
        if problem is not None:
            self._refuse(problem)
            return
        super().data_received(data)

    def _grown_too_large(self, arrived: int) -> Problem | None:
        """Count what the parser has not handed over yet: it collects an endless line, header or trailer, in silence."""
        if self.in_head:
            self.head_size += arrived
            return _HEAD_TOO_LARGE if self.head_size > MAX_HEAD_BYTES else None
        if self.in_body:
            self.raw_body_size += arrived
            # Twice: the frames of small chunks take room as well.
            return _too_large() if self.raw_body_size > 2 * settings.MAX_BODY_BYTES + MAX_HEAD_BYTES else None
        return None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.in_head = True
        self.head_size = self.body_size = self.raw_body_size = 0
        scope = cast(dict[str, Any], self.scope)
        scope[PEER] = self.peer
        self._start_deadline()

    def on_headers_complete(self) -> None:
        if self.refused:
            return
        problem = self._wrong_with_head()
        if problem is not None:
            self._refuse(problem)
            return
        super().on_headers_complete()
        self.in_head, self.in_body = False, True

    def _wrong_with_head(self) -> Problem | None:
        if len(self.connections) > settings.MAX_CONNECTIONS:
            return retry_later("overloaded", "This server holds as many connections as it may. Try again.", 1)
        if any(name.replace(b"_", b"-") == TERMINATOR_HEADER for name, _ in self.headers):
            return _HEADER_NOT_ALLOWED
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            return _HEAD_TOO_LARGE
        if any(name == b"content-length" and int(value) > settings.MAX_BODY_BYTES for name, value in self.headers):
            return _too_large()
        return None

    def on_body(self, body: bytes) -> None:
        if self.refused:
            return
        self.body_size += len(body)
        if self.body_size > settings.MAX_BODY_BYTES:
            self._refuse(_too_large())
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.refused:
            return
        super().on_message_complete()
        self.in_body = False
        if self.cycle.response_complete:
            # Answered before it was read to its end, so uvicorn's keep-alive timer has come and gone.
            self._start_deadline()
        else:
            self._stop_deadline()

    def pause_writing(self) -> None:
        """Bound the wait for a client that does not read its answer: uvicorn would wait for ever."""
        super().pause_writing()
        self.write_deadline = self.loop.call_later(settings.REQUEST_TIMEOUT, self._abort)

    def resume_writing(self) -> None:
        self._stop_write_deadline()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        if not self.refused:
            self._refuse(Problem("malformed_request", "This is not HTTP/1.1 as we understand it."))

    def _refuse(self, problem: Problem) -> None:
        """Answer without the application and close: the rest of the request is not read."""
        self.refused = True
        if self._is_next_to_answer():
            self.transport.write(_answer(problem))
        if self.in_body:
            # The application has the first part already: it must not answer as well.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def end(self, code: str) -> None:
        """Close the connection because its certificate no longer stands; a request under way is answered first."""
        if self.ended or self.peer is None:
            return
        self.ended = True
        metrics.CONNECTIONS_CLOSED.labels(code).inc()
        fields = {
            "reason": code,
            "serial_number": self.peer.serial_number,
            "caller": f"{self.peer.role}/{self.peer.name}",
        }
        logger.info("a connection ends with its certificate", extra=fields)
        self.shutdown()

    def _is_next_to_answer(self) -> bool:
        """Tell whether the client would take an answer now for that of the request being read.

        Not so after the application's own answer has begun, nor while an earlier pipelined request waits for one.
        """
        if self.in_body:
            return not self.cycle.response_started and not self.pipeline
        return self._all_answered()

    def _all_answered(self) -> bool:
        newest = cast("RequestResponseCycle | None", self.cycle)
        return newest is None or newest.response_complete

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

    def _stop_write_deadline(self) -> None:
        if self.write_deadline is not None:
            self.write_deadline.cancel()
            self.write_deadline = None


_HEAD_TOO_LARGE = Problem("headers_too_large", f"Address and headers together hold at most {MAX_HEAD_BYTES} bytes.")

_HEADER_NOT_ALLOWED = Problem(
    "header_not_allowed",
    "X-SSL-Client-Cert is what a TLS terminator tells a server behind it. Leave it out: this server does TLS itself, "
    "and knows you by the certificate you connect with.",
)


def _too_large() -> Problem:
    return Problem("too_large", f"A request body holds at most {settings.MAX_BODY_BYTES} bytes.")


def _answer(problem: Problem) -> bytes:
    body = problem.body()
    headers = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), "connection": "close", **problem.headers}
    lines = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[problem.status] + lines.encode() + b"\r\n" + body


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
