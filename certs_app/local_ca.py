"""The CA as the registry and its jobs reach it, who hold its keys and its database."""

from datetime import datetime

from django.conf import settings
from django.db.models import Max
from django.utils import timezone

from certs_app import authority, fetching, revocation_lists
from certs_app.audit import Actor
from certs_app.ca_client import CaAway, CaRefuses
from certs_app.ca_keys import CaKeyError
from certs_app.issuing import IssuingRefused
from certs_app.models import Certificate, Issuer
from certs_app.renewing import renew
from certs_app.uses import note_use


class LocalCa:
    """A `Ca` without a network between."""

    def renew(self, serial_number: str, csr: bytes) -> bytes:
        certificate = Certificate.objects.filter(serial_number=serial_number).first()
        if certificate is None:
            raise CaRefuses(f"this CA has issued no certificate {serial_number}")
        try:
            return renew(certificate, csr, timezone.now(), Actor(f"service:{settings.ROLE}", serial_number)).chain_pem
        except IssuingRefused as error:
            raise CaRefuses(str(error)) from None
        except CaKeyError as error:
            raise CaAway(str(error)) from None

    def in_use(self, serial_number: str) -> None:
        note_use([serial_number], timezone.now())


class LocalLists:
    """The lists of a process beside the CA: those in the database, whichever process put them there.

    On one machine whoever publishes writes the file as well; of several, the others follow here, within a second.
    """

    every = 1

    def __init__(self) -> None:
        self._written: list[tuple[int, int | None]] = []

    def refresh(self, now: datetime) -> None:
        """Write the files when the database holds something newer. Raises DatabaseError, OSError."""
        newest = list(Issuer.objects.order_by("id").annotate(newest=Max("crls__number")).values_list("id", "newest"))
        if newest and newest != self._written:
            authority.write_bundle(now)
            revocation_lists.write_file()
            self._written = newest
        fetching.observe(settings.CA_FILE, settings.CRL_FILE, now)

    def repair(self, now: datetime) -> None:
        """Write the files anew, and new lists when those in the database are out of date. Raises CaKeyError as well."""
        if Issuer.objects.exists():
            authority.write_bundle(now)
            revocation_lists.publish(now)
