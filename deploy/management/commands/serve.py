from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from certs_app import upkeep
from deploy import stopping
from deploy.roles import SERVE, serve


class Command(BaseCommand):
    # After what can be repaired was repaired.
    requires_system_checks: list[str] = []
    help = "Serve one role of the system until SIGINT or SIGTERM: the process entry on every OS."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("role", choices=sorted(SERVE))

    def handle(self, **options: Any) -> None:
        role = options["role"]
        if role != settings.ROLE:
            raise CommandError(
                f"these settings are of role {settings.ROLE}: unset DJANGO_SETTINGS_MODULE to serve {role}"
            )
        upkeep.prepare()
        self.check()
        stopping.heed()
        serve(role)
