import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from certs_app.diagnosis import Target, diagnose, verdict
from certs_app.inspection import Finding
from certs_app.management import finding
from certs_app.management.teaching import TeachingCommand
from certs_app.probing import Address

_MARKS = {True: "ok", False: "FAIL", None: "-"}


class Command(TeachingCommand):
    help = (
        "Find out why a TLS connection to one of the servers fails: looks at our own files, connects, shakes hands, "
        "asks for a page, and says in plain words what is wrong and what to do. Changes nothing. Exit code 0 only when "
        "everything is fine."
    )
    examples = (
        ("Can ingest reach the registry?", "localhost:8000 --as ingest-client"),
        ("Would this client be let in?", "ingest.example.org:8001 --cert alice.crt --key alice.key --ca ca.crt"),
        ("May this role use this page?", "localhost:8000 --as worker --path /readyz"),
    )
    # Some of them are about the very files that are wrong.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "server", nargs="?", default="", metavar="HOST:PORT", help="e.g. localhost:8000 or [2001:db8::7]:8000"
        )
        parser.add_argument("--as", dest="stem", metavar="STEM", help="come with STEM.crt of the certificate folder")
        parser.add_argument("--cert", type=Path, metavar="FILE", help="come with this certificate (PEM)")
        parser.add_argument("--key", type=Path, metavar="FILE", help="its key")
        parser.add_argument("--ca", type=Path, default=settings.CA_FILE, metavar="FILE", help="CAs that we trust")
        parser.add_argument("--crl", type=Path, default=settings.CRL_FILE, metavar="FILE", help="revocation lists")
        parser.add_argument("--path", default="/healthz", help="page to ask for (default: /healthz)")
        parser.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS", help="for each step (default: 5)")
        parser.add_argument("--json", action="store_true", help="a JSON document, for programs")

    def handle(self, **options: Any) -> None:
        target = _target(options)
        findings = diagnose(target, timezone.now())
        said, fine = verdict(findings), all(one.ok is not False for one in findings)
        if options["json"]:
            rows = [dataclasses.asdict(one) for one in findings]
            document = {"server": str(target.address), "fine": fine, "verdict": said, "findings": rows}
            self.stdout.write(json.dumps(document, indent=1))
        else:
            self._print(findings)
        if not fine:
            raise CommandError(said)
        if not options["json"]:
            self.stdout.write(f"\n{said}")

    def _print(self, findings: list[Finding]) -> None:
        for one in findings:
            self.stdout.write(f"{_MARKS[one.ok]:5}{one.check:20}{one.sentence}")


def _target(options: dict[str, Any]) -> Target:
    if not options["server"]:
        raise CommandError(
            f"say whom to ask: HOST:PORT, e.g. localhost:8000. And with what: --as STEM, {finding.pairs()}"
        )
    certificate, key = options["cert"], options["key"]
    if bool(certificate) != bool(key):
        raise CommandError("--cert and --key belong together")
    if options["stem"]:
        if certificate:
            raise CommandError("give --as, or --cert and --key, not both")
        certificate, key = finding.pair(options["stem"])
    if not re.fullmatch(r"/[!-~]*", options["path"]):
        raise CommandError(f"--path begins with a slash and has no spaces, unlike {options['path']!r}")
    if not 0 < options["timeout"] <= 60:
        raise CommandError(f"--timeout lies between 0 and 60 seconds, not {options['timeout']:g}")
    address = _address(options["server"], options["timeout"])
    return Target(address, options["ca"], options["crl"], certificate, key, options["path"])


def _address(text: str, timeout: float) -> Address:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.netloc != text:
        raise CommandError(f"{text!r} is no HOST:PORT; write e.g. localhost:8000")
    return Address(host, port, timeout)
