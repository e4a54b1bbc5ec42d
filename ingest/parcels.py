"""Envelopes on their way to the registry, as Celery's tools see them."""

import json
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings

from ingest.queue import TASK
from ingest.tasks import deliver


@dataclass(eq=False)
class Parcel:
    """One envelope on its way. Celery's `inspect` and Flower see it as a request for the task."""

    id: str
    envelope: str = field(repr=False)
    tag: str
    started: float | None = None
    chokes_registry: bool = False
    name = TASK
    stamps = ()
    # When Celery loses its connection, it cancels what would come again then. Parcels would not, and go on: in Redis
    # they are held by this worker as before.
    task = deliver
    acknowledged = True

    @property
    def size(self) -> int:
        return len(self.envelope)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Describe it for `celery inspect`: never what is in it."""
        return {
            "id": self.id,
            "name": TASK,
            "args": [self.id, "(sealed)"],
            "kwargs": {},
            "type": TASK,
            "hostname": None,
            "time_start": self.started,
            "acknowledged": False,
            "delivery_info": {"exchange": "", "routing_key": settings.QUEUE_NAME},
            "worker_pid": None,
        }


def read(message: Any) -> Parcel | None:
    """Make a parcel of a Celery message; None when it is no message of ours."""
    try:
        (envelope_id, envelope), _, _ = json.loads(message.body)
        # Half a surrogate pair is a string that no request can carry.
        (envelope_id + envelope).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return Parcel(envelope_id, envelope, message.delivery_tag)
