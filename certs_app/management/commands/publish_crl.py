from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from certs_app.ca_keys import CaKeyError
from certs_app.models import Issuer
from certs_app.revocation_lists import publish


class Command(BaseCommand):
    help = "Issue a new revocation list and write it where the servers read it. The jobs process does so hourly."

    def handle(self, **options: Any) -> None:
        try:
            crl = publish(timezone.now())
        except Issuer.DoesNotExist:
            raise CommandError("there is no CA yet: run `manage.py init_ca` first") from None
        except CaKeyError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(
            f"Published list {crl.number}, valid until {crl.next_update:%Y-%m-%d %H:%M} UTC: {settings.CRL_FILE}"
        )
