"""DRF views for callers with a certificate."""

import re
from typing import IO, Any, TypeVar

import msgspec
from django.conf import settings
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from certs_app.identity import Peer
from certs_app.middleware import peer_of
from wire.problems import FieldError, Problem

Body = TypeVar("Body", bound=msgspec.Struct)


class StrictJSON(JSONParser):
    """Strict JSON (RFC 8259), in UTF-8 and nothing else.

    Refuses what DRF's own parser lets through: lone surrogates, any codec named as charset, bottomless nesting.
    """

    def parse(self, stream: IO[Any], media_type: str | None = None, parser_context: Any = None) -> Any:
        body = stream.read(settings.MAX_BODY_BYTES + 1)
        # Our own server refuses this earlier; behind a terminator nobody else does.
        if len(body) > settings.MAX_BODY_BYTES:
            raise Problem("too_large", f"A request has at most {settings.MAX_BODY_BYTES} bytes.")
        return strict_json(body)


def strict_json(body: bytes) -> Any:
    """Return what a body says. Raises ParseError."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ParseError("The body is not valid JSON in UTF-8.") from None


class PeerView(APIView):
    """A JSON view that PeerRequired guards: the certificate is the authentication, the route's roles the permission."""

    authentication_classes = ()
    permission_classes = ()
    renderer_classes = (JSONRenderer,)
    parser_classes = (StrictJSON,)


def caller(request: Request) -> Peer:
    """Return the admitted caller."""
    peer = peer_of(request._request)
    assert peer is not None, "the middleware admits no request without a caller"
    return peer


def body_as(request: Request, shape: type[Body]) -> Body:
    """Return the body in this shape. Raises Problem, which names the field that does not fit."""
    try:
        return msgspec.convert(request.data, shape)
    except msgspec.ValidationError as error:
        detail = str(error)
        named = re.search(r"`\$?\.?([A-Za-z0-9_.\[\]]+)`$", detail)
        raise Problem(
            "invalid_request",
            "The body does not have the fields that errors names.",
            [FieldError(named[1][:64] if named else "", "invalid", detail[:200])],
        ) from None
