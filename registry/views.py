"""The registry's HTTP edge: translate in, make one call, translate out."""

import base64
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.utils import timezone
from django.utils.dateparse import parse_datetime
from rest_framework.request import Request
from rest_framework.response import Response

from certs_app.identity import Peer
from certs_app.rest import PeerView, caller
from registry import receipts
from registry.envelopes import SealingKeyMissing
from registry.models import PROGRESS, REGISTERED, BackwardStep, Message
from registry.parsing import StrictJSON
from registry.registering import IdTaken, register_envelopes, register_one
from registry.sealing import UNREADABLE
from registry.statuses import UnknownMessage, Update, advance
from wire import ids, messages, rules
from wire.problems import FieldError, Problem, retry_later

logger = logging.getLogger(__name__)

MAX_ENVELOPES = 100
MAX_UPDATES = 1000


class Register(PeerView):
    """POST /register: one message object, or {"envelopes": [base64, …]}."""

    parser_classes = (StrictJSON,)

    def post(self, request: Request) -> Response:
        body = _object(request.data)
        if "envelopes" in body:
            return _register_envelopes(body)
        return _register_message(body, caller(request))


def _register_envelopes(body: dict[str, Any]) -> Response:
    blobs = [_decoded(blob) for blob in _list(body, "envelopes", MAX_ENVELOPES)]
    try:
        outcomes = register_envelopes(blobs, timezone.now())
    except SealingKeyMissing as error:
        raise retry_later("sealing_key_missing", f"{error}. Restore the sealing key; nothing is lost.", 30) from None
    return Response({"results": [outcome.as_dict() for outcome in outcomes]})


def _decoded(blob: Any) -> bytes:
    if not isinstance(blob, str):
        raise _invalid("envelopes", "not_a_string", "each envelope is a base64 string")
    try:
        return base64.b64decode(blob, validate=True)
    except ValueError:
        # No envelope at all: it is rejected by itself like any other bad one, and holds up none beside it.
        return b""


def _register_message(body: dict[str, Any], peer: Peer) -> Response:
    given = body.pop("id", None)
    checked = rules.check(body)
    if isinstance(checked, rules.Invalid):
        raise Problem("invalid_message", "The message breaks the rules listed in errors.", checked.errors)
    now = timezone.now()
    # Whoever posts in the clear is the sender: a worker cannot speak for a client.
    message = messages.Message(
        id=_message_id(given, now),
        client=f"{peer.role}:{peer.name}",
        certificate=peer.serial_number,
        sender_number=checked.sender_number,
        message_body=checked.message_body,
        client_reference=checked.client_reference,
        sent_at=checked.sent_at,
    )
    try:
        row, created = register_one(message, now)
    except IdTaken as error:
        raise _invalid("id", "taken", str(error)) from None
    return Response({"id": str(row.uid), "status": row.status}, status=201 if created else 200)


def _message_id(given: Any, now: datetime) -> UUID:
    if given is None:
        return ids.new_id(now.timestamp())
    try:
        uid = UUID(given)
        ids.received_at(uid)
    except (ValueError, TypeError, AttributeError):
        raise _invalid("id", "not_uuid7", "an id is a UUIDv7; leave it out to have one made") from None
    return uid


class StatusUpdate(PeerView):
    """POST /status_update: one update, or {"updates": […]} with an outcome for each."""

    parser_classes = (StrictJSON,)

    def post(self, request: Request) -> Response:
        body = _object(request.data)
        peer = caller(request)
        now = timezone.now()
        if "updates" not in body:
            update = _update(body, now)
            return Response(_advance(update, peer))
        updates = list(_updates(body, now))
        return Response({"results": [_advance_or_refuse(update, peer) for update in updates]})


def _updates(body: dict[str, Any], now: datetime) -> Iterator[Update]:
    for position, one in enumerate(_list(body, "updates", MAX_UPDATES)):
        try:
            yield _update(_object(one), now)
        except Problem as problem:
            (error,) = problem.errors
            raise _invalid(f"updates[{position}].{error.field}".rstrip("."), error.code, error.detail) from None


def _update(body: dict[str, Any], now: datetime) -> Update:
    unknown = set(body) - {"id", "status", "at", "detail"}
    if unknown:
        raise _invalid(min(unknown)[:64], "unknown_field", "fields are id, status, at, detail")
    status, at, detail = body.get("status"), body.get("at"), body.get("detail", "")
    try:
        uid = UUID(body.get("id"))
    except (ValueError, TypeError, AttributeError):
        raise _invalid("id", "not_a_uuid", "id is the message's UUID") from None
    if not isinstance(status, str) or status not in PROGRESS or status == REGISTERED:
        raise _invalid("status", "unknown_status", "status is dispatched, delivered or failed")
    if not isinstance(detail, str) or len(detail) > 200 or "\0" in detail:
        raise _invalid("detail", "bad_detail", "detail is a string of at most 200 characters")
    return Update(uid, status, _moment(at, now), detail)


def _moment(value: Any, now: datetime) -> datetime:
    if value is None:
        return now
    try:
        moment = parse_datetime(value)
        if moment is not None and moment.tzinfo is not None:
            # Here, not in the database's adapter: the first and last hours of the calendar overflow.
            return moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        pass
    raise _invalid("at", "not_rfc3339", "write the time as RFC 3339 with its offset")


def _advance(update: Update, peer: Peer) -> dict[str, str]:
    try:
        status = advance(update, f"{peer.role}/{peer.name}")
    except UnknownMessage as error:
        raise Problem("not_found", str(error)) from None
    except BackwardStep as error:
        raise Problem("backward_step", str(error)) from None
    return {"id": str(update.uid), "status": status}


def _advance_or_refuse(update: Update, peer: Peer) -> dict[str, str]:
    try:
        return {**_advance(update, peer), "outcome": "updated"}
    except Problem as problem:
        return {"id": str(update.uid), "outcome": "refused", "code": problem.code}


class ClientMessage(PeerView):
    """GET /clients/<client>/messages/<id>: status and signed receipt, for ingest to pass to that client."""

    def get(self, request: Request, client: str, uid: UUID) -> Response:
        message = Message.objects.filter(uid=uid, client=client).first()
        if message is None:
            raise Problem("not_found", "This client has no such message in the registry. It may still be in the queue.")
        return Response(
            {
                "id": str(message.uid),
                "status": message.status,
                "received_at": message.received_at.isoformat(),
                "stored_at": message.stored_at.isoformat(),
                "receipt": _receipt(message),
            }
        )


def _receipt(message: Message) -> str | None:
    try:
        return receipts.issue(message, timezone.now())
    except UNREADABLE as error:
        # The sender still learns the status; what cannot be read cannot be vouched for.
        logger.error("a stored value cannot be read", extra={"uid": message.uid, "reason": type(error).__name__})
        return None


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid("", "not_an_object", "the body is a JSON object")
    return dict(value)


def _list(body: dict[str, Any], name: str, most: int) -> list[Any]:
    value = body[name]
    if set(body) != {name}:
        raise _invalid(name, "unknown_field", f"{name} stands alone in its object")
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        raise _invalid(name, "bad_length", f"{name} is a list of 1 to {most}")
    return value


def _invalid(field: str, code: str, detail: str) -> Problem:
    return Problem("invalid_request", detail, [FieldError(field, code, detail)])
