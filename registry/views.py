"""The registry's HTTP edge: translate in, make one call, translate out."""

import base64
import binascii
from datetime import datetime
from typing import Any
from uuid import UUID

from django.utils import timezone
from django.utils.dateparse import parse_datetime
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from certs_app.identity import Peer
from certs_app.middleware import peer_of
from registry import receipts
from registry.envelopes import SealingKeyMissing
from registry.models import PROGRESS, REGISTERED, BackwardStep, Message
from registry.registering import register_envelopes, register_one
from registry.statuses import UnknownMessage, Update, advance
from wire import envelope, ids, messages, rules
from wire.problems import FieldError, Problem, retry_later

MAX_ENVELOPES = 100
MAX_UPDATES = 1000


class Register(APIView):
    """POST /register: one message object, or {"envelopes": [base64, …]}."""

    def post(self, request: Request) -> Response:
        body = _object(request.data)
        if "envelopes" in body:
            return _register_envelopes(body)
        return _register_message(body, _caller(request))


def _register_envelopes(body: dict[str, Any]) -> Response:
    blobs = _list(body, "envelopes", MAX_ENVELOPES)
    try:
        decoded = [base64.b64decode(blob, validate=True) for blob in blobs]
    except (binascii.Error, TypeError, ValueError):
        raise _invalid("envelopes", "not_base64", "each envelope is a base64 string") from None
    if any(len(blob) > envelope.MAX_BYTES for blob in decoded):
        raise Problem("too_large", f"an envelope has at most {envelope.MAX_BYTES} bytes")
    try:
        outcomes = register_envelopes(decoded, timezone.now())
    except SealingKeyMissing as error:
        raise retry_later("sealing_key_missing", f"{error}. Restore the sealing key; nothing is lost.", 30) from None
    return Response({"results": [outcome.as_dict() for outcome in outcomes]})


def _register_message(body: dict[str, Any], caller: Peer) -> Response:
    given = body.pop("id", None)
    checked = rules.check(body)
    if isinstance(checked, rules.Invalid):
        raise Problem("invalid_message", "The message breaks the rules listed in errors.", checked.errors)
    now = timezone.now()
    # Whoever posts in the clear is the sender: a worker cannot speak for a client.
    message = messages.Message(
        id=_message_id(given, now),
        client=f"{caller.role}:{caller.name}"[:64],
        certificate=caller.serial_number,
        sender_number=checked.sender_number,
        message_body=checked.message_body,
        client_reference=checked.client_reference,
        sent_at=checked.sent_at,
    )
    row, created = register_one(message, now)
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


class StatusUpdate(APIView):
    """POST /status_update: one update, or {"updates": […]} with an outcome for each."""

    def post(self, request: Request) -> Response:
        body = _object(request.data)
        caller = _caller(request)
        now = timezone.now()
        if "updates" not in body:
            update = _update(body, now)
            return Response(_advance(update, caller))
        updates = [_update(_object(one), now) for one in _list(body, "updates", MAX_UPDATES)]
        return Response({"results": [_advance_or_refuse(update, caller) for update in updates]})


def _update(body: dict[str, Any], now: datetime) -> Update:
    unknown = set(body) - {"id", "status", "at", "detail"}
    if unknown:
        raise _invalid(sorted(unknown)[0][:64], "unknown_field", "fields are id, status, at, detail")
    status, at, detail = body.get("status"), body.get("at"), body.get("detail", "")
    try:
        uid = UUID(body.get("id"))
    except (ValueError, TypeError, AttributeError):
        raise _invalid("id", "not_a_uuid", "id is the message's UUID") from None
    if status not in PROGRESS or status == REGISTERED:
        raise _invalid("status", "unknown_status", "status is dispatched, delivered or failed")
    if not isinstance(detail, str) or len(detail) > 200 or "\0" in detail:
        raise _invalid("detail", "bad_detail", "detail is a string of at most 200 characters")
    return Update(uid, status, _moment(at, now), detail)


def _moment(value: Any, now: datetime) -> datetime:
    if value is None:
        return now
    try:
        moment = parse_datetime(value)
    except (ValueError, TypeError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise _invalid("at", "not_rfc3339", "write the time as RFC 3339 with its offset")
    return moment


def _advance(update: Update, caller: Peer) -> dict[str, str]:
    try:
        status = advance(update, f"{caller.role}/{caller.name}")
    except UnknownMessage as error:
        raise Problem("not_found", str(error)) from None
    except BackwardStep as error:
        raise Problem("backward_step", str(error)) from None
    return {"id": str(update.uid), "status": status}


def _advance_or_refuse(update: Update, caller: Peer) -> dict[str, str]:
    try:
        return {**_advance(update, caller), "outcome": "updated"}
    except Problem as problem:
        return {"id": str(update.uid), "outcome": "refused", "code": problem.code}


class ClientMessage(APIView):
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
                "receipt": receipts.issue(message),
            }
        )


def _caller(request: Request) -> Peer:
    peer = peer_of(request._request)
    assert peer is not None, "the middleware admits no request without a caller"
    return peer


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


