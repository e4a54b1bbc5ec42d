import os
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from deploy.roles import SERVE, serve, stop_with_parent


class Command(BaseCommand):
    help = "Serve one role of the system until SIGINT or SIGTERM: the process entry on every OS."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("role", choices=sorted(SERVE))

    def handle(self, **options: Any) -> None:
        role = options["role"]
        if role != settings.ROLE:
            raise CommandError(
                f"these settings are of role {settings.ROLE}: unset DJANGO_SETTINGS_MODULE to serve {role}"
            )
        if os.environ.get("MSGSYS_SUPERVISED"):
            stop_with_parent()
        serve(role)
