"""The way of a message: registered, dispatched, and in the end delivered or failed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

REGISTERED, DISPATCHED, DELIVERED, FAILED = "registered", "dispatched", "delivered", "failed"
# How far along a status is: a step leads only to a higher number, so delivered and failed are both ends.
PROGRESS = {REGISTERED: 0, DISPATCHED: 1, DELIVERED: 2, FAILED: 2}

# What became of an update.
RECORDED, REPEATED, BACKWARD, UNKNOWN = "recorded", "repeated", "backward", "unknown"


@dataclass(frozen=True)
class Update:
    """A step a message took: `at` is when, as reported."""

    uid: UUID
    status: str
    at: datetime
    detail: str


class Taken(NamedTuple):
    """What became of an update, and the status its message has after all of them; empty for an unknown message."""

    outcome: str
    status: str


def take(
    updates: Sequence[Update], before: Mapping[UUID, str], known: Iterable[tuple[UUID, str]]
) -> tuple[list[Taken], list[Update]]:
    """Return what becomes of each update, and those to record, in the order they happened.

    `before` has the status of the messages that exist, `known` their steps so far. In one batch order counts for
    nothing: of one message, what is less far along is taken first.
    """
    status_of, steps = dict(before), set(known)
    outcomes, recorded = [UNKNOWN] * len(updates), []
    for position, update in sorted(enumerate(updates), key=lambda one: PROGRESS[one[1].status]):
        outcomes[position] = _outcome(update, status_of.get(update.uid), steps)
        if outcomes[position] == RECORDED:
            status_of[update.uid] = update.status
            steps.add((update.uid, update.status))
            recorded.append(update)
    taken = [Taken(outcome, status_of.get(update.uid, "")) for outcome, update in zip(outcomes, updates, strict=True)]
    return taken, recorded


def _outcome(update: Update, status: str | None, steps: set[tuple[UUID, str]]) -> str:
    if status is None:
        return UNKNOWN
    if (update.uid, update.status) in steps:
        return REPEATED
    # A status that is none of ours was put there past the registry: no step leads on from it.
    return RECORDED if PROGRESS[update.status] > PROGRESS.get(status, PROGRESS[DELIVERED]) else BACKWARD
