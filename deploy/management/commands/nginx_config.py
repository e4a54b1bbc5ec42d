from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from certs_app.files import write_secret
from deploy.nginx import configuration


class Command(BaseCommand):
    help = "Write nginx's configuration as the TLS terminator of a role (MSGSYS_<ROLE>_BEHIND_PROXY). It holds a token."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("role", choices=configuration.ROLES)
        parser.add_argument("--out", type=Path, metavar="FILE", help="write it here, private; without: show it")
        parser.add_argument("--whole", action="store_true", help="a whole nginx.conf, for an nginx of its own")

    def handle(self, **options: Any) -> None:
        try:
            text = configuration.text(options["role"], whole=options["whole"])
        except configuration.CannotConfigure as error:
            raise CommandError(str(error)) from None
        if options["whole"]:
            configuration.make_folders()
        if options["out"] is None:
            self.stdout.write(text)
            return
        write_secret(options["out"], text.encode(), replace=True)
        self.stdout.write(f"Wrote {options['out']}.")
