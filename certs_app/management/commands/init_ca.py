from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from certs_app.authority import AlreadyInitialised, init_ca
from certs_app.ca_keys import CaKeyError, path_of
from certs_app.models import Issuer


class Command(BaseCommand):
    help = "Make the root CA, the issuing CA below it, and their first revocation lists. Never replaces a CA."

    def handle(self, **options: Any) -> None:
        try:
            init_ca(timezone.now())
        except (AlreadyInitialised, CaKeyError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"CA certificates: {settings.CA_FILE}")
        self.stdout.write(f"Revocation list: {settings.CRL_FILE}")
        self.stdout.write(f"Move {path_of(Issuer.ROOT)} to a safe place offline; it is needed again only in 4 months.")
