"""Ingest's DRF views: the accept path's contract where only WSGI runs, and a message's status."""

import functools
from typing import Any
from uuid import UUID

from django.core.exceptions import RequestDataTooBig
from django.http import HttpResponse
from rest_framework.exceptions import ParseError
from rest_framework.request import Request
from rest_framework.response import Response

from certs_app.rest import PeerView, caller
from ingest.accepting import Answer, ThreadedAcceptor, batch_answer, single_answer
from ingest.parsing import parse_batch, parse_single
from ingest.registry_client import RegistryError, registry
from wire.problems import Problem, retry_later


@functools.cache
def acceptor() -> ThreadedAcceptor:
    return ThreadedAcceptor()


class _Accept(PeerView):
    """Accept what `parse` finds in the body, and answer with `respond`."""

    parse: Any
    respond: Any

    def post(self, request: Request) -> HttpResponse:
        peer = caller(request)
        acceptor().limiter.check(peer.name)
        content_type = request.headers.get("Content-Type", "")
        parsed = self.parse(content_type, _body(request), peer.name, request.headers.get("Idempotency-Key"))
        intake = acceptor().begin(peer, parsed)
        headers = acceptor().accept(intake)
        answer: Answer = self.respond(intake, headers)
        return HttpResponse(answer.body, content_type="application/json", status=answer.status, headers=answer.headers)


class Submit(_Accept):
    """POST /submit: one message."""

    parse = staticmethod(parse_single)
    respond = staticmethod(single_answer)


class SubmitBatch(_Accept):
    """POST /submit/batch: 1 to 1,000 messages, as JSON or NDJSON."""

    parse = staticmethod(parse_batch)
    respond = staticmethod(batch_answer)


class MessageStatus(PeerView):
    """GET /messages/<id>: the caller's own message, its status and signed receipt, asked of the registry."""

    def get(self, request: Request, uid: UUID) -> Response:
        peer = caller(request)
        try:
            found = registry().message(peer.name, uid)
        except RegistryError:
            raise retry_later("registry_unavailable", "The registry does not answer. Ask again later.", 30) from None
        if found is None:
            raise Problem("not_found", "You have no such message in the registry. It may still be in the queue.")
        return Response(found)


def _body(request: Request) -> bytes:
    try:
        return request._request.body
    except RequestDataTooBig:
        raise Problem("too_large", "The request body is larger than this server takes.") from None
    except OSError as error:
        raise ParseError("The body could not be read to its end.") from error
