"""The registry's HTTP edge: translate in, make one call, translate out."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from rest_framework.request import Request
from rest_framework.response import Response

from certs_app.identity import Peer
from certs_app.rest import PeerView, body_as, caller
from registry import balance, dead_letters, receipts, tampering
from registry.envelopes import SealingKeyMissing
from registry.models import BackwardStep, Message
from registry.registering import IdTaken, register_envelopes, register_one
from registry.sealing import UNREADABLE
from registry.statuses import UnknownMessage, advance, advance_all
from registry.steps import BACKWARD, PROGRESS, REGISTERED, UNKNOWN, Taken, Update
from wire import ids, messages, rules
from wire.problems import FieldError, Problem, retry_later
from wire.sums import Sum

MAX_ENVELOPES = 100
MAX_UPDATES = 1000
MAX_RANGES = 120
MAX_IDS = 1000
HOUR_MS = 3_600_000

# What fits into every database's columns, and into a UUIDv7.
Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
Millisecond = Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]


class Register(PeerView):
    """POST /register: one message object, or {"envelopes": [base64, …]}."""

    def post(self, request: Request) -> Response:
        status, said = register(request.data, caller(request))
        return Response(said, status=status)


def register(data: Any, peer: Peer) -> tuple[int, dict[str, Any]]:
    """Return the status and body of the answer to a registration. Raises Problem."""
    body = _object(data)
    return _register_envelopes(body) if "envelopes" in body else _register_message(body, peer)


def _register_envelopes(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    blobs = [_decoded(blob) for blob in _list(body, "envelopes", MAX_ENVELOPES)]
    try:
        outcomes = register_envelopes(blobs, timezone.now())
    except SealingKeyMissing as error:
        raise retry_later("sealing_key_missing", f"{error}. Restore the sealing key; nothing is lost.", 30) from None
    return 200, {"results": [outcome.as_dict() for outcome in outcomes]}


def _decoded(blob: Any) -> bytes:
    if not isinstance(blob, str):
        raise _invalid("envelopes", "not_a_string", "each envelope is a base64 string")
    try:
        return base64.b64decode(blob, validate=True)
    except ValueError:
        # No envelope at all: it is rejected by itself like any other bad one, and holds up none beside it.
        return b""


def _register_message(body: dict[str, Any], peer: Peer) -> tuple[int, dict[str, Any]]:
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
    return 201 if created else 200, {"id": str(row.uid), "status": row.status}


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

    def post(self, request: Request) -> Response:
        body = _object(request.data)
        peer = caller(request)
        reporter, now = f"{peer.role}/{peer.name}", timezone.now()
        if "updates" not in body:
            return Response(_advance(_update(body, now), reporter))
        updates = list(_updates(body, now))
        taken = advance_all(updates, reporter)
        return Response({"results": [_result(*both) for both in zip(updates, taken, strict=True)]})


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
    return Update(uid, status, now if at is None else _moment(at, "at"), detail)


def _moment(value: Any, field: str) -> datetime:
    try:
        moment = parse_datetime(value)
        if moment is not None and moment.tzinfo is not None:
            # Here, not in the database's adapter: the first and last hours of the calendar overflow.
            return moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        pass
    raise _invalid(field, "not_rfc3339", "write the time as RFC 3339 with its offset")


def _advance(update: Update, reporter: str) -> dict[str, str]:
    try:
        status = advance(update, reporter)
    except UnknownMessage as error:
        raise Problem("not_found", str(error)) from None
    except BackwardStep as error:
        raise Problem("backward_step", str(error)) from None
    return {"id": str(update.uid), "status": status}


_REFUSED = {UNKNOWN: "not_found", BACKWARD: "backward_step"}


def _result(update: Update, taken: Taken) -> dict[str, str]:
    said = {"id": str(update.uid), **({"status": taken.status} if taken.status else {})}
    if taken.outcome in _REFUSED:
        return {**said, "outcome": "refused", "code": _REFUSED[taken.outcome]}
    return {**said, "outcome": "updated"}


class DeadLetters(PeerView):
    """POST /dead_letters: what a queue holds of them, in place of what was reported before."""

    def post(self, request: Request) -> Response:
        peer = caller(request)
        report = body_as(request, dead_letters.Report)
        report.check()
        dead_letters.record(report, f"{peer.role}/{peer.name}", timezone.now())
        return Response({"queue": report.name, "total": report.total, "listed": len(report.letters)})


class ClientMessage(PeerView):
    """GET /clients/<client>/messages/<id>: status and signed receipt, for ingest to pass to that client."""

    def get(self, request: Request, client: str, uid: UUID) -> Response:
        message = Message.objects.of_client(client, uid)
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
    except UNREADABLE:
        # The sender still learns the status; what cannot be read cannot be vouched for.
        tampering.note_all(message, "registry")
        return None


class Queue(msgspec.Struct, forbid_unknown_fields=True):
    """What an ingest says of its queue. Times are RFC 3339."""

    depth: Number
    held: Number
    dead: Number
    unaccounted: Number
    oldest_at: str | None = None
    settled_until: str | None = None


class BalanceBody(msgspec.Struct, forbid_unknown_fields=True):
    key: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")] | None = None
    ranges: Annotated[list[tuple[Millisecond, Millisecond]], msgspec.Meta(max_length=MAX_RANGES)] = []
    ids: Annotated[list[UUID], msgspec.Meta(max_length=MAX_IDS)] = []
    queue: Queue | None = None


class Balance(PeerView):
    """POST /balance: an ingest compares what it accepted with what is stored, and says how its queue is."""

    def post(self, request: Request) -> Response:
        asked, ingest = body_as(request, BalanceBody), caller(request).name
        totals = balance.stored(ingest, asked.ranges, _key(asked)) if asked.ranges else []
        unknown, elsewhere = balance.unknown(ingest, asked.ids) if asked.ids else ([], [])
        if asked.queue is not None:
            _report(ingest, asked.queue)
        return Response(
            {
                "ranges": [_totals(by_client) for by_client in totals],
                "unknown": [str(uid) for uid in unknown],
                "elsewhere": [str(uid) for uid in elsewhere],
            }
        )


def _key(asked: BalanceBody) -> bytes:
    if asked.key is None:
        raise _invalid("key", "missing", "ranges are summed with a key: 16 bytes in hex")
    for position, (start, end) in enumerate(asked.ranges):
        if not 0 < end - start <= HOUR_MS:
            raise _invalid(f"ranges[{position}]", "bad_range", "a range is from and to in ms, at most an hour apart")
    return bytes.fromhex(asked.key)


def _report(ingest: str, queue: Queue) -> None:
    said = msgspec.structs.asdict(queue)
    for name in ("oldest_at", "settled_until"):
        if said[name] is not None:
            said[name] = _moment(said[name], f"queue.{name}")
    balance.report(ingest, timezone.now(), **said)


def _totals(by_client: dict[str, Sum]) -> dict[str, dict[str, Any]]:
    return {client: {"count": one.count, "digest": one.digest_hex} for client, one in by_client.items()}


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
