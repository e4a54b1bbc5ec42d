"""The CA's own record: who had it do what. Kept as a chain of digests, so that what is taken out is missed."""

import getpass
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from django.db import transaction

from certs_app.identity import Peer
from certs_app.models import AuditEvent, Certificate, Issuer

logger = logging.getLogger(__name__)

ISSUED, RENEWED, REVOKED, SUPERSEDED = "issued", "renewed", "revoked", "superseded"
CA_MADE, CA_REVOKED = "ca_made", "ca_revoked"
KEY_ADDED, KEY_PROMOTED, KEY_RETIRED, KEY_DESTROYED = "key_added", "key_promoted", "key_retired", "key_destroyed"
KEY_REACTIVATED = "key_reactivated"
PURGED, ERASED = "purged", "erased"

START = "0" * 64
_CHAINED = ("actor", "actor_certificate", "action", "subject", "subject_certificate", "detail", "previous")


@dataclass(frozen=True)
class Actor:
    """Who asks: a caller by its certificate (`certificate` is the serial number, hex), or somebody at the terminal."""

    name: str
    certificate: str = ""

    @classmethod
    def of(cls, peer: Peer) -> "Actor":
        return cls(f"{peer.role}/{peer.name}", peer.serial_number)

    @classmethod
    def operator(cls) -> "Actor":
        """Return whoever runs this process; behind sudo, whoever called it."""
        try:
            login = os.environ.get("SUDO_USER") or getpass.getuser()
        except (KeyError, OSError):  # a container's user may have no name
            login = "unknown"
        return cls(f"operator:{login}"[:81])


def record(action: str, actor: Actor, subject: "Certificate | Issuer | str", at: datetime, detail: str = "") -> None:
    """Add an event, inside the transaction of what it records. Its digest goes to the log as well, once that is
    committed: an anchor outside the database, against somebody who makes a whole new chain.
    """
    with transaction.atomic():
        # One at a time: the next row must follow this one.
        Issuer.objects.select_for_update().filter(kind=Issuer.ROOT).order_by("id").first()
        last = AuditEvent.objects.order_by("-id").values_list("digest", flat=True).first()
        serial_number = subject.serial_number if isinstance(subject, Certificate) else ""
        event = AuditEvent(
            at=at,
            actor=actor.name,
            actor_certificate=actor.certificate,
            action=action,
            subject=str(subject),
            subject_certificate=serial_number,
            detail=detail[:200],
            previous=last or START,
        )
        event.digest = digest(event)
        event.save()
        transaction.on_commit(partial(_log, event))


def _log(event: AuditEvent) -> None:
    names = ("action", "actor", "subject", "digest")
    fields = {name: getattr(event, name) for name in names}
    logger.info("the CA acted", extra={**fields, "serial_number": event.subject_certificate})


def digest(event: AuditEvent) -> str:
    """Return the hex SHA-256 of an event's fields and of the digest before it, as canonical JSON."""
    fields = {name: getattr(event, name) for name in _CHAINED}
    content = json.dumps({**fields, "at": event.at.isoformat()}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def broken() -> Iterator[AuditEvent]:
    """Yield the events that were changed, or before which something is missing."""
    previous = START
    for event in AuditEvent.objects.order_by("id").iterator():
        if event.previous != previous or event.digest != digest(event):
            yield event
        previous = event.digest
