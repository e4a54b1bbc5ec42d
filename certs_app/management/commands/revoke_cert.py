from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.module_loading import import_string

from certs_app import revocation_lists
from certs_app.audit import Actor
from certs_app.ca_keys import CaKeyError
from certs_app.management import finding
from certs_app.models import ISSUER_REASONS, Certificate, CertificateQuerySet, Issuer
from certs_app.profiles import PROFILES


class Command(BaseCommand):
    help = (
        "Revoke a certificate by serial number, or all live ones of a name. It is refused at once at the CA's machine, "
        "elsewhere within the fetch interval. There is no way back: issue a new one instead."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("who", nargs="?", default="", metavar="NAME|SERIAL")
        parser.add_argument(
            "--role", choices=sorted(PROFILES), default="", help="when a name has certificates of several roles"
        )
        parser.add_argument("--reason", choices=sorted(ISSUER_REASONS), default="", help="why (RFC 5280 §5.3.1)")
        parser.add_argument(
            "--issuer", metavar="CA", help="revoke an issuing CA and all it issued; needs the root's key"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="revoke nothing; say what each was used for, and what replaces it"
        )

    def handle(self, **options: Any) -> None:
        if bool(options["issuer"]) == bool(options["who"]):
            raise CommandError("say whose certificate: NAME or SERIAL, or --issuer CA")
        if options["reason"] == "ca_compromise" and not options["issuer"]:
            raise CommandError("ca_compromise is for --issuer; a certificate's own reason is key_compromise")
        if options["issuer"]:
            self._revoke_issuer(options["issuer"], options["reason"], dry=options["dry_run"])
        else:
            self._revoke(options["who"], options["role"], options["reason"], dry=options["dry_run"])

    def _revoke(self, who: str, role: str, reason: str, *, dry: bool) -> None:
        now = timezone.now()
        live = finding.certificates(who, role).live(now)
        finding.one_role(live, who)
        if not live.exists():
            self.stdout.write(f"Nothing to revoke: every certificate of {who} is revoked or expired already.")
        if dry:
            self._tell(live.with_successors().live(now) if reason == revocation_lists.STOLEN else live)
            return
        try:
            # Published even then: the first attempt may have failed between the commit and the file.
            revoked = revocation_lists.revoke(live, reason, now, Actor.operator())
        except CaKeyError as error:
            raise CommandError(f"{error}. Nothing was revoked.") from None
        for certificate in revoked:
            self.stdout.write(f"Revoked {certificate}, serial number {certificate.serial_number}")

    def _revoke_issuer(self, name: str, reason: str, *, dry: bool) -> None:
        now = timezone.now()
        issuer = Issuer.objects.filter(name=name).first()
        if issuer is None:
            known = ", ".join(Issuer.objects.order_by("id").values_list("name", flat=True))
            raise CommandError(f"there is no CA named {name!r}; there are: {known or 'none'}")
        live = Certificate.objects.filter(issuer=issuer).live(now)
        if dry:
            self.stdout.write(f"The {issuer} and {live.count()} live certificates it issued would be revoked.")
            return
        try:
            count = revocation_lists.revoke_issuer(issuer, reason, now, Actor.operator())
        except (CaKeyError, ValueError) as error:
            raise CommandError(f"{error}. Nothing was revoked.") from None
        self.stdout.write(f"Revoked the {issuer} and {count} certificates it issued.")

    def _tell(self, live: CertificateQuerySet) -> None:
        """Say what each certificate was used for lately, and whether its owner has a newer one."""
        activity, now = import_string(settings.CERTIFICATE_ACTIVITY), timezone.now()
        chosen = set(live.values_list("pk", flat=True))
        for one in live.order_by("id"):
            self.stdout.write(f"Would revoke {one} ({one.usage}), serial number {one.serial_number}")
            self.stdout.write(f"  {activity(one.serial_number, now)}")
            self.stdout.write(f"  {_successor(one, chosen, now)}")


def _successor(one: Certificate, chosen: set[int], now: datetime) -> str:
    """Say what its owner has beside it; the `chosen` go as well."""
    of_owner = Certificate.objects.live(now).filter(role=one.role, name=one.name, usage=one.usage)
    newer = of_owner.filter(pk__gt=one.pk).order_by("id").last()
    if newer is None:
        left = of_owner.exclude(pk__in=chosen).exists()
        return "its owner has no newer one" + ("" if left else ": afterwards it has none")
    used = "in use" if newer.first_used_at else "never used yet"
    gone = ", to be revoked as well" if newer.pk in chosen else ""
    return f"its owner has a newer one, {used}{gone}: {newer.serial_number}"
