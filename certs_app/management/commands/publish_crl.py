from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from certs_app.authority import write_bundle
from certs_app.ca_keys import CaKeyError, load
from certs_app.models import Issuer
from certs_app.revocation_lists import publish


class Command(BaseCommand):
    help = "Issue new revocation lists and write them where the servers read them. The jobs process does so hourly."

    def handle(self, **options: Any) -> None:
        try:
            if not Issuer.objects.exists():
                raise CommandError("there is no CA yet: run `manage.py init_ca` first")
            # A crash may have left ca.crt with a CA that the database does not have.
            write_bundle(timezone.now())
            lists = publish(timezone.now())
        except CaKeyError as error:
            raise CommandError(str(error)) from None
        for crl in lists:
            self.stdout.write(
                f"Published list {crl.number} of the {crl.issuer}, valid until {crl.next_update:%Y-%m-%d %H:%M} UTC"
            )
        self.stdout.write(f"All lists: {settings.CRL_FILE}")
        for issuer in Issuer.objects.live(timezone.now()).exclude(kind=Issuer.ROOT):
            try:
                load(issuer.name)
            except CaKeyError as error:
                raise CommandError(f"The other lists are published, but {error}") from None
