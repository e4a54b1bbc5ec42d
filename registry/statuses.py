"""Status updates from the worker and from gateways."""

from collections.abc import Sequence

from registry import metrics
from registry.models import BackwardStep, Message
from registry.steps import BACKWARD, UNKNOWN, Taken, Update


class UnknownMessage(Exception):
    """No message has this id."""


def advance_all(updates: Sequence[Update], reporter: str) -> list[Taken]:
    """Record steps, all of them or none, and say what became of each. Late and repeated ones are harmless."""
    taken = Message.objects.advance(updates, reporter)
    for one in taken:
        metrics.STATUS_UPDATES.labels(one.outcome).inc()
    return taken


def advance(update: Update, reporter: str) -> str:
    """Record a step and return the message's status. Repeated steps are harmless.

    Raises UnknownMessage, BackwardStep.
    """
    (taken,) = advance_all([update], reporter)
    if taken.outcome == UNKNOWN:
        raise UnknownMessage(f"there is no message {update.uid}")
    if taken.outcome == BACKWARD:
        raise BackwardStep(f"message {update.uid} is {taken.status}: it cannot become {update.status}")
    return taken.status
