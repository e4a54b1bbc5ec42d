"""Register messages: the one way into the table, from envelopes or one at a time."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from certs_app.uses import note_use
from registry import envelopes, metrics, storing
from registry.models import Message
from registry.storing import Arrival
from wire import envelope, messages
from wire.envelope import EnvelopeError

logger = logging.getLogger(__name__)

STORED, DUPLICATE, REJECTED = "stored", "duplicate", "rejected"


@dataclass(frozen=True)
class Outcome:
    """What became of one envelope. `code` says why it was rejected; a rejection is permanent."""

    envelope_id: UUID | None
    outcome: str
    code: str = ""

    def as_dict(self) -> dict[str, str | None]:
        members = {"id": str(self.envelope_id) if self.envelope_id else None, "outcome": self.outcome}
        return {**members, "code": self.code} if self.code else members


def register_envelopes(blobs: Sequence[bytes], now: datetime) -> list[Outcome]:
    """Store the messages of each envelope; an envelope that can never be stored is rejected by itself.

    Raises SealingKeyMissing (nothing of any envelope is stored then), and database errors: all temporary.
    """
    parsed = [_parse(blob) for blob in blobs]
    signers = envelopes.Signers.of([one for one in parsed if isinstance(one, envelope.Envelope)])
    opened = [_open(one, signers) if isinstance(one, envelope.Envelope) else one for one in parsed]
    arrivals = [
        Arrival.of(message, accepted_by=one.accepted_by)
        for one in opened
        if isinstance(one, Opened)
        for message in one.messages
    ]
    stored = _store(arrivals, now)
    return [_outcome(one, stored) if isinstance(one, Opened) else one for one in opened]


@dataclass(frozen=True)
class Opened:
    """An envelope whose content may be stored."""

    envelope_id: UUID
    accepted_by: str
    messages: list[messages.Message]


def _parse(blob: bytes) -> envelope.Envelope | Outcome:
    try:
        if len(blob) > envelope.MAX_BYTES:
            raise EnvelopeError(f"an envelope has at most {envelope.MAX_BYTES} bytes")
        return envelope.parse(blob)
    except EnvelopeError as error:
        return _rejected(None, error)


def _open(one: envelope.Envelope, signers: envelopes.Signers) -> Opened | Outcome:
    try:
        signer = signers.check(one)
        return Opened(one.id, signer.name, envelopes.read(one))
    except EnvelopeError as error:
        return _rejected(one.id, error)


def _rejected(envelope_id: UUID | None, error: EnvelopeError) -> Outcome:
    logger.warning("an envelope was rejected for good", extra={"envelope": envelope_id, "code": error.code})
    metrics.ENVELOPES.labels(REJECTED).inc()
    return Outcome(envelope_id, REJECTED, error.code)


def _outcome(one: Opened, stored: set[UUID]) -> Outcome:
    outcome = STORED if any(message.id in stored for message in one.messages) else DUPLICATE
    metrics.ENVELOPES.labels(outcome).inc()
    return Outcome(one.envelope_id, outcome)


def _store(arrivals: Sequence[Arrival], now: datetime) -> set[UUID]:
    stored = storing.store(arrivals, now)
    # Clients' certificates are seen by ingest alone, which has no database: here they come by.
    note_use({one.message.certificate for one in arrivals}, now)
    metrics.MESSAGES.labels(STORED).inc(len(stored))
    metrics.MESSAGES.labels(DUPLICATE).inc(len(arrivals) - len(stored))
    for one in arrivals:
        if one.uid in stored:
            metrics.END_TO_END_SECONDS.observe(max(0.0, (now - one.received_at).total_seconds()))
    return stored


class IdTaken(Exception):
    """Another sender's message has this id."""


def register_one(message: messages.Message, now: datetime) -> tuple[Message, bool]:
    """Store one message; return its row and whether it is new. Raises IdTaken."""
    created = bool(_store([Arrival.of(message)], now))
    found = Message.objects.filter(uid=message.id, client=message.client).first()
    if found is None:
        raise IdTaken(f"the id {message.id} belongs to another sender's message, or to one that was removed")
    return found, created
