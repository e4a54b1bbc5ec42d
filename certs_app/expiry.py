"""What comes to its end: told in the metrics, and a CA's end in the log, long before it matters."""

import logging
from datetime import date, datetime, timedelta

from django.db.models import Exists, OuterRef

from certs_app import metrics
from certs_app.authority import ISSUING_LIFE, ROOT_LIFE
from certs_app.models import Certificate, CertificateQuerySet, Issuer

logger = logging.getLogger(__name__)

CERTIFICATE_NOTICE = timedelta(days=30)
# A certificate issued for its full life needs a CA that lives as long; every node must know the new CA before.
NOTICE = {Issuer.ROOT: ROOT_LIFE / 3, Issuer.CLIENTS: ISSUING_LIFE / 3, Issuer.SERVERS: ISSUING_LIFE / 3}
_WHAT_TO_DO = {Issuer.ROOT: "init_ca --add-root"}

_warned: dict[str, date] = {}


def watch(now: datetime) -> None:
    """Set the metrics; warn once a day of each CA that nears its end and has no successor."""
    for issuer in Issuer.objects.live(now):
        metrics.CA_NOT_AFTER.labels(issuer.name).set(issuer.not_after.timestamp())
    metrics.EXPIRING.set(expiring(now).count())
    for kind, notice in NOTICE.items():
        newest = Issuer.objects.newest(kind, now)
        if newest is not None and newest.not_after - now < notice and _warned.get(newest.name) != now.date():
            _warned[newest.name] = now.date()
            command = _WHAT_TO_DO.get(kind, f"init_ca --add-issuer {kind}")
            fields = {"ca": newest.name, "days_left": (newest.not_after - now).days, "command": command}
            logger.warning("a CA nears its end and has no successor: see docs/pki.md", extra=fields)


def expiring(now: datetime) -> CertificateQuerySet:
    """Return the certificates that expire soon and whose owner has no later one for the same use."""
    same = {"role": OuterRef("role"), "name": OuterRef("name"), "usage": OuterRef("usage")}
    later = Certificate.objects.live(now).filter(**same, not_after__gt=OuterRef("not_after"))
    return Certificate.objects.current(now).filter(~Exists(later), not_after__lte=now + CERTIFICATE_NOTICE)
