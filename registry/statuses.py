"""Status updates from the worker and from gateways."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from registry import metrics
from registry.models import BackwardStep, Message


class UnknownMessage(Exception):
    """No message has this id."""


@dataclass(frozen=True)
class Update:
    """A step a message took: `at` is when, as reported."""

    uid: UUID
    status: str
    at: datetime
    detail: str


def advance(update: Update, reporter: str) -> str:
    """Record a step and return the message's status. Repeated steps are harmless.

    Raises UnknownMessage, BackwardStep.
    """
    message = Message.objects.filter(uid=update.uid).only("id", "uid", "status").first()
    if message is None:
        metrics.STATUS_UPDATES.labels("unknown").inc()
        raise UnknownMessage(f"there is no message {update.uid}")
    try:
        taken = message.advance(update.status, update.at, update.detail, reporter)
    except BackwardStep:
        metrics.STATUS_UPDATES.labels("backward").inc()
        raise
    metrics.STATUS_UPDATES.labels("recorded" if taken else "repeated").inc()
    return message.status
