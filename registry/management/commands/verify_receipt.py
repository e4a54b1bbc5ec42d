import json
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from certs_app.inspection import Trust, Wrong, read_authorities, read_lists
from certs_app.management.teaching import TeachingCommand
from registry.receipt_verification import MOST_CHARACTERS, NotProven, Proof, verify
from registry.receipts import content_sha256
from wire import rules

CANNOT_LOOK = 2
MOST_BYTES = 1024 * 1024


class Command(TeachingCommand):
    help = (
        "Verify the receipt of a message and say in plain words what it proves. Needs nothing but the CA's "
        "certificates: no database, no connection. Exit code 0: proven. 1: not proven. 2: a file cannot be used."
    )
    examples = (
        ("A receipt in a file: the JWS itself, or the answer to GET /messages/<id>", "receipt.jws --ca ca.crt"),
        ("Is it about this message, as it was sent to /submit?", "receipt.jws --message-file message.json"),
        ("Was the registry's key stolen since?", "receipt.jws --crl crl.pem"),
        ("From another program", "- --ca ca.crt"),
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("receipt", metavar="FILE|-", help="- reads standard input")
        parser.add_argument("--ca", type=Path, default=settings.CA_FILE, metavar="FILE", help="CAs that we trust")
        parser.add_argument("--crl", type=Path, metavar="FILE", help="revocation lists; without, nothing is revoked")
        parser.add_argument("--message-file", type=Path, metavar="FILE", help="the message, as JSON")

    def handle(self, **options: Any) -> None:
        try:
            trust = Trust(read_authorities(options["ca"]), read_lists(options["crl"]) if options["crl"] else ())
        except Wrong as error:
            raise CommandError(str(error), returncode=CANNOT_LOOK) from None
        receipt = _receipt(options["receipt"])
        expected = _content(options["message_file"]) if options["message_file"] else ""
        try:
            proof = verify(receipt, trust, settings.TRUST_DOMAIN)
        except NotProven as error:
            raise CommandError(f"Not proven. {error}", returncode=1) from None
        self.stdout.write("\n".join(_lines(proof)))
        if expected and expected != proof.content_sha256:
            raise CommandError(
                "The receipt is good, but not about this message: number or text differ by at least one character.",
                returncode=1,
            )
        if expected:
            self.stdout.write("It is about the message in the file: number and text are the very same.")
        if not options["crl"]:
            self.stdout.write("Not looked at: whether the registry's key was stolen since (--crl).")


def _lines(proof: Proof) -> list[str]:
    return [
        "Proven: the registry has this message.",
        f"  id           {proof.id}",
        f"  client       {proof.client}",
        f"  received     {proof.received_at:%Y-%m-%d %H:%M:%S.%f} UTC, by ingest's clock",
        f"  stored       {proof.stored_at:%Y-%m-%d %H:%M:%S.%f} UTC, by the registry's clock",
        f"  content      SHA-256 {proof.content_sha256}",
        f"  signed       {proof.signed_at:%Y-%m-%d %H:%M:%S} UTC, with the registry's certificate {proof.signer}",
    ]


def _receipt(where: str) -> str:
    """Return the receipt of a file: as it is, or out of the answer it came in."""
    text = sys.stdin.read(MOST_BYTES).strip() if where == "-" else _read(Path(where)).strip()
    if not text.startswith("{"):
        return text
    document = _json(text, where)
    receipt = document.get("receipt")
    if receipt is None:
        raise CommandError(
            f"{where} has no receipt: the registry gives none while it cannot read what it stored.",
            returncode=CANNOT_LOOK,
        )
    return str(receipt)[: MOST_CHARACTERS + 1]


def _content(file: Path) -> str:
    """Return the hash of a message as it was sent to /submit."""
    checked = rules.check(_json(_read(file), str(file)))
    if isinstance(checked, rules.Invalid):
        wrong = "; ".join(f"{error.field}: {error.detail}" for error in checked.errors)
        raise CommandError(f"{file} holds no message that could have been accepted: {wrong}", returncode=CANNOT_LOOK)
    return content_sha256(checked.sender_number, checked.message_body)


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise CommandError(f"{file} is too large for what it should be", returncode=CANNOT_LOOK)
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CommandError(f"{file} cannot be read: {error}", returncode=CANNOT_LOOK) from None


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{where} is not JSON: {type(error).__name__}", returncode=CANNOT_LOOK) from None
    if not isinstance(document, dict):
        raise CommandError(f"{where} must hold one JSON object", returncode=CANNOT_LOOK)
    return document
