from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from certs_app.ca_keys import CaKeyError
from certs_app.files import write_atomic, write_secret
from certs_app.issuing import Issued, IssuingRefused, Request, issue
from certs_app.profiles import CLIENT, MAX_DAYS, PROFILES, SERVER


class Command(BaseCommand):
    help = "Issue a certificate: writes NAME.crt with its issuer, ca.crt, and NAME.key unless a CSR is given."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="who it is for, e.g. alice (a-z, 0-9, dot, dash, underscore)")
        parser.add_argument("--role", required=True, choices=sorted(PROFILES), help="what its owner may do")
        parser.add_argument("--usage", choices=[CLIENT, SERVER], default="", help="only for roles that have both")
        parser.add_argument(
            "--dns", action="append", default=[], metavar="HOST", help="host name of a server; repeatable"
        )
        parser.add_argument(
            "--ip", action="append", default=[], metavar="ADDRESS", help="address of a server; repeatable"
        )
        parser.add_argument(
            "--days", type=int, default=0, help=f"days it is valid, at most {MAX_DAYS} (role's default)"
        )
        parser.add_argument(
            "--out", type=Path, metavar="DIR", help="folder to write to (default: the certificate folder)"
        )
        parser.add_argument("--csr", type=Path, metavar="FILE", help="PEM request; only its public key is taken")

    def handle(self, **options: Any) -> None:
        request = Request(
            name=options["name"],
            role=options["role"],
            usage=options["usage"],
            days=options["days"],
            dns=options["dns"],
            ip=options["ip"],
            csr=_read(options["csr"]) if options["csr"] else b"",
        )
        folder = options["out"] or settings.CERTIFICATES_DIR
        stem = stem_of(request)
        key_file = folder / f"{stem}.key"
        if not request.csr and key_file.exists():
            raise CommandError(f"{key_file} exists already. Move it away, or give another --out folder.")
        try:
            issued = issue(request, timezone.now())
        except (IssuingRefused, CaKeyError) as error:
            raise CommandError(str(error)) from None
        write(issued, folder, stem)
        self.stdout.write(f"Issued {issued.row} ({issued.row.usage}), serial number {issued.row.serial_number}")
        self.stdout.write(f"valid until {issued.row.not_after:%Y-%m-%d %H:%M} UTC, in {folder / stem}.crt")


def stem_of(request: Request) -> str:
    """Name the files: NAME, or NAME-client for the client certificate of a role that serves by default."""
    usual = PROFILES[request.role].usages[0]
    return request.name if request.usage in ("", usual) else f"{request.name}-{request.usage}"


def write(issued: Issued, folder: Path, stem: str) -> None:
    """Write the files of an issued certificate."""
    if issued.key_pem:
        write_secret(folder / f"{stem}.key", issued.key_pem, replace=True)
    write_atomic(folder / f"{stem}.crt", issued.chain_pem)
    write_atomic(folder / "ca.crt", settings.CA_FILE.read_bytes())


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CommandError(f"the CSR cannot be read: {error}") from None
    if not content:
        # No CSR means "make a key for me", which nobody who names a file wants.
        raise CommandError(f"the CSR {path} is empty")
    return content
