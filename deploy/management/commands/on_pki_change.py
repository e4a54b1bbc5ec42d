import signal
import threading
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from deploy.nginx.configuration import ROLES
from deploy.watching import Watcher
from msgsys_project.settings.base import certificate


class Command(BaseCommand):
    help = (
        "Run a command when the revocation lists, the CA certificates or a server's certificate change, until SIGTERM: "
        "manage.py on_pki_change -- nginx -s reload"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("command_line", nargs="+", metavar="COMMAND", help="what to run, after --")

    def handle(self, **options: Any) -> None:
        stop = threading.Event()
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda *_: stop.set())
        files = [settings.CA_FILE, settings.CRL_FILE]
        files += [file for role in ROLES for file in certificate(role).values()]
        Watcher(files, options["command_line"], stop).run()
