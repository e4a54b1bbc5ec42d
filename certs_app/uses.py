"""Notice when a renewed certificate is first used: only then is the old one superseded."""

import logging
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import DatabaseError, transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from certs_app import audit
from certs_app.audit import Actor
from certs_app.middleware import GetResponse, peer_of
from certs_app.models import Certificate, Issuer

logger = logging.getLogger(__name__)


class UseNoted:
    """Note the certificate of whoever is let in. Stands below PeerRequired."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> None:
        peer = peer_of(request)
        if peer is not None:
            note_use([peer.serial_number], timezone.now())


# Serial numbers this process has noted already. Cleared when full: noting twice is harmless.
_noted: set[str] = set()
_MAX_NOTED = 10_000


def note_use(serial_numbers: Iterable[str], now: datetime) -> None:
    """Note that these certificates are in use. Never fails: whoever uses a certificate wants something else."""
    new = set(serial_numbers) - _noted
    if not new:
        return
    try:
        _note(new, now)
    except DatabaseError as error:
        logger.warning("the use of a certificate was not noted", extra={"reason": type(error).__name__})
        return
    if len(_noted) > _MAX_NOTED:
        _noted.clear()
    _noted.update(new)


def _note(serial_numbers: set[str], now: datetime) -> None:
    unused = Certificate.objects.filter(serial_number__in=serial_numbers, first_used_at=None)
    if not unused.exists():
        return
    with transaction.atomic():
        # Before the certificates' rows, as everywhere: two who lock in different orders wait for ever.
        Issuer.objects.locked()
        for certificate in unused.select_related("replaces"):
            Certificate.objects.filter(pk=certificate.pk).update(first_used_at=now)
            if certificate.replaces is not None:
                _supersede(certificate.replaces, certificate, now)


def _supersede(old: Certificate, new: Certificate, now: datetime) -> None:
    if Certificate.objects.filter(pk=old.pk, superseded_at=None).update(superseded_at=now):
        actor = Actor(str(new), new.serial_number)
        audit.record(audit.SUPERSEDED, actor, old, now, f"by {new.serial_number}")
