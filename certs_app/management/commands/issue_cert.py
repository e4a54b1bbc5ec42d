from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from certs_app.audit import Actor
from certs_app.ca_keys import CaKeyError
from certs_app.files import UnsafeFile, read_secret, write_atomic
from certs_app.issuing import Issued, IssuingRefused, Request, issue
from certs_app.pairs import replace_pair
from certs_app.profiles import CLIENT, DEFAULT_DAYS, PROFILES, SERVER


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
            "--days", type=int, default=0, help=f"days it is valid (default: {DEFAULT_DAYS}; the role sets the limit)"
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
            csr=read_csr(options["csr"]),
        )
        folder = options["out"] or settings.CERTIFICATES_DIR
        stem = stem_of(request.name, request.role, request.usage)
        key_file = folder / f"{stem}.key"
        if key_file.exists() and not (request.csr and is_key_of(key_file, request.csr)):
            raise CommandError(f"{key_file} exists already. Move it away, or give another --out folder.")
        try:
            issued = issue(request, timezone.now(), Actor.operator())
        except (IssuingRefused, CaKeyError) as error:
            raise CommandError(str(error)) from None
        write(issued, folder, stem)
        self.stdout.write(f"Issued {issued.row} ({issued.row.usage}), serial number {issued.row.serial_number}")
        self.stdout.write(f"valid until {issued.row.not_after:%Y-%m-%d %H:%M} UTC, in {folder / stem}.crt")


def stem_of(name: str, role: str, usage: str) -> str:
    """Name the files: NAME, or NAME-client for the client certificate of a role that serves by default."""
    return name if usage in ("", PROFILES[role].usages[0]) else f"{name}-{usage}"


def write(issued: Issued, folder: Path, stem: str) -> None:
    """Write the files of an issued certificate."""
    if issued.key_pem:
        replace_pair(folder / f"{stem}.crt", folder / f"{stem}.key", issued.chain_pem, issued.key_pem)
    else:
        write_atomic(folder / f"{stem}.crt", issued.chain_pem)
    write_atomic(folder / "ca.crt", settings.CA_FILE.read_bytes())


def is_key_of(key_file: Path, csr: bytes) -> bool:
    """Tell whether a key made this CSR: a certificate beside another key would make a pair that nobody can use."""
    try:
        key = load_pem_private_key(read_secret(key_file), password=None)
        return key.public_key() == x509.load_pem_x509_csr(csr).public_key()
    except (UnsafeFile, ValueError, TypeError, UnsupportedAlgorithm):
        return False


def read_csr(path: Path | None) -> bytes:
    """Return the content of a CSR file; nothing when none is named."""
    if path is None:
        return b""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CommandError(f"the CSR cannot be read: {error}") from None
    if not content:
        # No CSR means "make a key for me", which nobody who names a file wants.
        raise CommandError(f"the CSR {path} is empty")
    return content
