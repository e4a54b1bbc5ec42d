"""The portal's JSON API: JSON Web Tokens in, messages out. Nothing here writes to what is shown."""

from typing import Any
from uuid import UUID

from rest_framework.exceptions import AuthenticationFailed
from rest_framework.parsers import JSONParser
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.exceptions import InvalidToken
from rest_framework_simplejwt.views import TokenObtainPairView, TokenRefreshView

from portal import parameters
from portal.opening import Opened, open_message
from portal.queries import MessageQuery
from portal.throttling import LoginRate
from registry.models import Message
from wire.problems import FieldError, Problem


class JsonOnly(APIView):
    """JSON in, JSON or a problem out, whatever the settings of the process say."""

    renderer_classes = [JSONRenderer]
    parser_classes = [JSONParser]
    throttle_classes = []

    def handle_exception(self, exc: Exception) -> Any:
        if isinstance(exc, InvalidToken):
            exc = Problem("not_authenticated", "The token is not valid, or not any more. Sign in again.")
        elif isinstance(exc, AuthenticationFailed):
            exc = Problem("not_authenticated", "The user name and the password do not fit, or the account is closed.")
        elif isinstance(exc, RecursionError):
            # Thousands of nested brackets: the parser's own limit.
            exc = Problem("malformed_json", "The body is nested too deeply.")
        return super().handle_exception(exc)


class SignedInOnly(JsonOnly):
    """A view that answers nobody without a token."""

    authentication_classes = [JWTAuthentication]
    permission_classes = [IsAuthenticated]


class Token(JsonOnly, TokenObtainPairView):
    """POST /api/token/ {"username", "password"} → {"access", "refresh"}."""

    throttle_classes = [LoginRate]


class TokenRefresh(JsonOnly, TokenRefreshView):
    """POST /api/token/refresh/ {"refresh"} → {"access"}."""


class Messages(SignedInOnly):
    """GET /api/messages/: filters that are no personal data, in the URL."""

    def get(self, request: Request) -> Response:
        return _answer(parameters.read(request.query_params.dict(), parameters.LIST_FIELDS))


class MessageSearch(SignedInOnly):
    """POST /api/messages/search/: the same filters and the sender, in a body, for URLs end up in logs."""

    def post(self, request: Request) -> Response:
        if not isinstance(request.data, dict):
            detail = "the body is a JSON object"
            raise Problem("invalid_request", detail, [FieldError("", "not_an_object", detail)])
        return _answer(parameters.read(request.data, parameters.SEARCH_FIELDS))


class MessageDetail(SignedInOnly):
    """GET /api/messages/<id>/."""

    def get(self, request: Request, uid: UUID) -> Response:
        message = Message.objects.filter(uid=uid).first()
        if message is None:
            raise Problem("not_found", "The registry has no message with this id. It may still be in the queue.")
        return Response(_fields(open_message(message)))


def _answer(query: MessageQuery) -> Response:
    page = query.page()
    return Response(
        {
            "results": [_fields(opened) for opened in page.messages],
            "next": page.next,
            "count": page.count.number,
            "count_capped": page.count.capped,
        }
    )


def _fields(opened: Opened) -> dict[str, Any]:
    """Return a message as the API shows it; `unreadable` names fields that are null because they cannot be opened."""
    row = opened.row
    fields = {
        "id": row.uid,
        "client": row.client,
        "certificate": row.certificate,
        "sender_number": opened.sender_number,
        "message_body": opened.message_body,
        "client_reference": opened.client_reference,
        "sent_at": row.sent_at,
        "received_at": row.received_at,
        "stored_at": row.stored_at,
        "status": row.status,
    }
    return {**fields, "unreadable": list(opened.unreadable)} if opened.unreadable else fields
