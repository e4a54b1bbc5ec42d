from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from certs_app import authority
from certs_app.audit import Actor
from certs_app.authority import ISSUING_KINDS, AlreadyInitialised, NoRoot
from certs_app.ca_keys import EC, RSA, RSA_BITS, CaKeyError, KeyKind, path_of
from certs_app.models import Issuer

BOTH = "both"


class Command(BaseCommand):
    help = (
        "Make the root CA, the two issuing CAs below it (one for clients, one for servers), and their first revocation "
        "lists. Never replaces a CA; --add-issuer and --add-root put new ones beside those that near their end."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--key-type", choices=[EC, RSA], default=EC, help="kind of the CAs' keys (default: ec)")
        parser.add_argument(
            "--key-size", type=int, metavar="BITS", help=f"of RSA keys: 2048 to 8192 (default: {RSA_BITS})"
        )
        added = parser.add_mutually_exclusive_group()
        added.add_argument(
            "--add-issuer",
            choices=[*ISSUING_KINDS, BOTH],
            nargs="?",
            const=BOTH,
            help="add an issuing CA: both are trusted, the new one signs from now on. Needs the root's key",
        )
        added.add_argument(
            "--add-root",
            action="store_true",
            help="add a root: nothing is signed by it until --add-issuer. Give the new ca.crt to everybody first",
        )

    def handle(self, **options: Any) -> None:
        kind = _key_kind(options["key_type"], options["key_size"])
        by, now = Actor.operator(), timezone.now()
        try:
            if options["add_root"]:
                made = [authority.add_root(now, by, kind)]
            elif options["add_issuer"]:
                asked = options["add_issuer"]
                made = authority.add_issuers(ISSUING_KINDS if asked == BOTH else (asked,), now, by, kind)
            else:
                authority.init_ca(now, by, kind)
                made = list(Issuer.objects.order_by("id"))
        except (AlreadyInitialised, NoRoot, CaKeyError) as error:
            raise CommandError(str(error)) from None
        for issuer in made:
            self.stdout.write(f"Made the {issuer}, valid until {issuer.not_after:%Y-%m-%d}: {path_of(issuer.name)}")
        self.stdout.write(f"CA certificates: {settings.CA_FILE}")
        self.stdout.write(f"Revocation lists: {settings.CRL_FILE}")
        for root in Issuer.objects.filter(kind=Issuer.ROOT):
            if path_of(root.name).exists():
                self.stdout.write(
                    f"Move {path_of(root.name)} to a safe place offline; it is needed again only in 4 months."
                )


def _key_kind(algorithm: str, bits: int | None) -> KeyKind:
    if bits is not None and algorithm != RSA:
        raise CommandError("--key-size is for RSA keys: add --key-type rsa. EC keys are P-256.")
    if bits is not None and not 2048 <= bits <= 8192:
        raise CommandError(f"--key-size lies between 2048 and 8192 bits, not {bits}")
    return KeyKind(algorithm, bits or RSA_BITS)
