"""A thread beside every served role: keeps its revocation lists fresh and its certificates valid."""

import logging
import threading
import time

from django.conf import settings
from django.db import close_old_connections
from django.utils import timezone
from django.utils.module_loading import import_string

from certs_app import fetching
from certs_app.files import UnsafeFile
from certs_app.own_certificates import OwnCertificate, keep
from certs_app.pairs import finish_replacing

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0


def prepare() -> None:
    """Repair what would keep this process from starting, before the system checks look at it.

    A renewal that a crash cut short is finished: the pair may not fit. Lists that went out of date while the machine
    was off, or damaged, are fetched or made anew: with them, no handshake would succeed.
    """
    for one in _own_certificates():
        try:
            finish_replacing(one.certificate, one.key)
        except (UnsafeFile, OSError) as error:
            logger.error("a renewed certificate could not be put in place", extra={"reason": str(error)[:200]})
    if not fetching.are_usable(settings.CA_FILE, settings.CRL_FILE, timezone.now()):
        try:
            import_string(settings.CA_LISTS)().repair(timezone.now())
        except Exception as error:
            # The checks that follow say what is wrong with the files; this says why they could not be made good.
            logger.error("the revocation lists could not be repaired", extra={"reason": str(error)[:200]})


def start() -> None:
    """Begin."""
    threading.Thread(target=_run, args=(_own_certificates(),), name="upkeep", daemon=True).start()


def _own_certificates() -> list[OwnCertificate]:
    pairs = [getattr(settings, name, None) for name in ("SERVER_CERTIFICATE", "CLIENT_CERTIFICATE")]
    pairs += settings.KEPT_CERTIFICATES
    found = [OwnCertificate(pair["certificate"], pair["key"]) for pair in pairs if pair]
    return [one for one in found if one.certificate.exists()]


def _run(own: list[OwnCertificate]) -> None:
    ca, lists = import_string(settings.CA)(), import_string(settings.CA_LISTS)()
    refresh_at = 0.0
    while True:
        try:
            if time.monotonic() >= refresh_at:
                refresh_at = time.monotonic() + lists.every
                lists.refresh(timezone.now())
            keep(own, ca, timezone.now())
        except Exception as error:
            # This thread must outlive whatever it meets: without it, certificates would run out in silence.
            logger.exception("the upkeep of certificates failed", extra={"reason": type(error).__name__})
        finally:
            close_old_connections()
        time.sleep(LOOK_EVERY)
