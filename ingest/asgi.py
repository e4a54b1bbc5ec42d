"""Ingest's ASGI application: the accept path in front of Django, which serves everything else."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import cast

from django.conf import settings
from django.core.asgi import get_asgi_application

from certs_app.admission import PEER, admit
from certs_app.asgi import JSON, Application, Disconnected, Receive, Scope, Send, read_body, send_answer
from certs_app.overload import Bounded
from certs_app.revocation import Revocations
from ingest import metrics
from ingest.accepting import Acceptor, Answer, batch_answer, single_answer
from ingest.parsing import Parsed, parse_batch, parse_single
from wire.problems import MEDIA_TYPE, Problem

logger = logging.getLogger(__name__)

ALLOWED_ROLES = frozenset({"client"})
LARGE_BODY = 16 * 1024


class AcceptPath:
    """POST /submit and /submit/batch, without Django's handler: a middleware thread hop costs more than the work."""

    def __init__(self, django: Application) -> None:
        self._django = django
        self._acceptor: Acceptor | None = None
        self._revocations = Revocations(settings.CRL_FILE, settings.CA_FILE)
        self._routes = {"/submit": (parse_single, single_answer), "/submit/batch": (parse_batch, batch_answer)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope.get("path", "")) if scope["type"] == "http" else None
        if route is None or scope["method"] != "POST":
            await self._django(scope, receive, send)
            return
        started = time.perf_counter()
        try:
            answer = await self._accept(scope, receive, *route)
            outcome = "accepted"
        except Problem as problem:
            answer = Answer(problem.body(), problem.headers, problem.status)
            outcome = problem.code
        except Disconnected:
            return
        except Exception as error:
            logger.exception("a submission failed", extra={"reason": type(error).__name__})
            failure = Problem("internal_error", "The message was not accepted. Send it again.")
            answer, outcome = Answer(failure.body(), {}, failure.status), failure.code
        media_type = JSON if answer.status < 400 else MEDIA_TYPE
        await send_answer(send, answer.status, answer.body, answer.headers, media_type=media_type)
        metrics.REQUESTS.labels(outcome).inc()
        metrics.SECONDS.observe(time.perf_counter() - started)

    async def _accept(
        self,
        scope: Scope,
        receive: Receive,
        parse: Callable[[str, bytes, str, str | None], Parsed],
        respond: Callable[..., Answer],
    ) -> Answer:
        peer = admit(scope.get(PEER), ALLOWED_ROLES, self._revocations)
        content_type, key = "", None
        for name, value in scope["headers"]:
            if name == b"content-type":
                content_type = value.decode("latin-1")
            elif name == b"idempotency-key":
                key = value.decode("latin-1")
        if self._acceptor is None:
            self._acceptor = Acceptor()
        self._acceptor.limiter.check(peer.name)
        body = await read_body(receive)
        if len(body) > LARGE_BODY:
            # Off the event loop: checking a thousand messages takes 20 ms, in which nobody else would be served.
            parsed = await asyncio.to_thread(parse, content_type, body, peer.name, key)
        else:
            parsed = parse(content_type, body, peer.name, key)
        intake = self._acceptor.begin(peer, parsed)
        headers = await self._acceptor.accept(intake)
        return respond(intake, headers)


application = AcceptPath(Bounded(cast(Application, get_asgi_application())))
