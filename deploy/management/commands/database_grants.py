import json
import re
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from deploy import grants

_DATABASE = re.compile(r"[A-Za-z0-9_]{1,64}")
_HOST = re.compile(r"[A-Za-z0-9_.:%/-]{1,255}")


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = (
        "Write the GRANT statements of MySQL or MariaDB for the users msgsys_migrate, msgsys_registry, msgsys_portal. "
        "The users must exist, and for the last two so must the tables."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--database", default="msgsys", help="name of the database (%(default)s)")
        parser.add_argument("--host", default="%", help="where the users come from, as MySQL has it (%(default)s)")
        parser.add_argument("--only", choices=sorted(grants.rights()), help="one user's alone")
        parser.add_argument("--json", action="store_true", help="the rights themselves: {user: {table: [rights]}}")

    def handle(self, **options: Any) -> None:
        if not _DATABASE.fullmatch(options["database"]) or not _HOST.fullmatch(options["host"]):
            raise CommandError("A database's name has letters, digits and _; a host also . : % / and -.")
        users = [options["only"]] if options["only"] else list(grants.rights())
        if options["json"]:
            self.stdout.write(json.dumps({user: grants.rights()[user] for user in users}, indent=1))
            return
        for user in users:
            self.stdout.write(f"-- msgsys_{user}")
            for statement in grants.statements(user, options["database"], options["host"]):
                self.stdout.write(statement)
