"""What the CA made, in Django's admin: certificates, issuers, revocation lists and its audit. Only to look at: this
process holds no CA key, and what is issued or revoked is so by the CA's own commands and routes."""

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import flatten_fieldsets
from django.db.models import Exists, OuterRef, QuerySet, Subquery
from django.db.models.functions import Length
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from certs_app.models import EXPIRED, REVOKED, SUPERSEDED, VALID, AuditEvent, Certificate, Crl, Issuer
from portal import badges, ca_contents, ca_filters
from portal.ca_contents import or_unreadable
from portal.counting import capped_count
from portal.downloads import Downloads, File
from portal.look_only import LookOnly

TONES = {
    VALID: "green",
    SUPERSEDED: "blue",
    EXPIRED: "grey",
    REVOKED: "red",
    "fresh": "green",
    "replaced": "grey",
    "stale": "red",
}
# What one page shows of what may be long.
EVENTS, ENTRIES, SUCCESSORS = 20, 100, 20

_PEM = File("PEM", "application/x-pem-file", lambda der: ca_contents.pem(ca_contents.CERTIFICATE, der))


def _pill(state: str) -> SafeString:
    return badges.pill(state, TONES[state])


@admin.register(Certificate)
class CertificateAdmin(Downloads):
    list_display = ("name", "role", "usage", "current_state", "expires", "serial_start")
    list_filter = (ca_filters.State, ca_filters.Expiry, "role", ca_filters.Usage, ca_filters.OfIssuer)
    search_fields = ("name", "serial_number")
    search_help_text = "The start of a name (alice, client/alice) or of a serial number (0A:1B:…)"
    fieldsets = (
        (None, {"fields": ("name", "role", "usage", "current_state", "downloads")}),
        ("Identity", {"fields": ("names", "serial", "sha256", "key_sha256", "issuer", "chain")}),
        ("Life", {"fields": ("begins", "expires", "used", "predecessor", "successors", "superseded")}),
        ("Revocation", {"fields": ("revoked", "reason")}),
        ("Audit", {"fields": ("events",)}),
    )
    shown = tuple(flatten_fieldsets(fieldsets))
    files = {"pem": _PEM}

    serial = badges.code_of("serial_number", "Serial number")
    sha256 = badges.code_of("fingerprint", "SHA-256 fingerprint")
    key_sha256 = badges.code_of("spki_sha256", "SHA-256 of the public key")
    begins = badges.time_of("not_before", "Valid from")
    used = badges.time_of("first_used_at", "First used")
    superseded = badges.time_of("superseded_at", "Superseded")
    revoked = badges.time_of("revoked_at", "Revoked")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Certificate]:
        return Certificate.objects.select_related("issuer").defer("der", "issuer__der")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Certificate], search_term: str
    ) -> tuple[QuerySet[Certificate], bool]:
        return queryset.filter(ca_filters.certificates_like(search_term)) if search_term.strip() else queryset, False

    def stem(self, row: Certificate) -> str:
        return f"{row.name}-{row.serial_number[: badges.SHORT]}"

    @admin.display(description="State")
    def current_state(self, row: Certificate) -> SafeString:
        return _pill(row.state(timezone.now()))

    @admin.display(description="Expires")
    def expires(self, row: Certificate) -> SafeString:
        return _expiry(row, timezone.now())

    @admin.display(description="Serial number")
    def serial_start(self, row: Certificate) -> SafeString | str:
        return badges.shortened(row.serial_number)

    @admin.display(description="Chain")
    @or_unreadable
    def chain(self, row: Certificate) -> SafeString:
        now = timezone.now()
        subject = row.certificate.subject.rfc4514_string()
        own = {"title": str(row), "subject": subject, "not_before": row.not_before, "until": _expiry(row, now)}
        return _chain([own], row.issuer, now)

    @admin.display(description="Names")
    @or_unreadable
    def names(self, row: Certificate) -> SafeString:
        listed = format_html_join("", "<li>{}</li>", ((name,) for name in ca_contents.alternative_names(row)))
        return format_html('<ul class="names code">{}</ul>', listed)

    @admin.display(description="Replaces")
    def predecessor(self, row: Certificate) -> SafeString | str:
        return _linked(Certificate.objects.filter(replaced_by=row))

    @admin.display(description="Replaced by")
    def successors(self, row: Certificate) -> SafeString | str:
        return _linked(Certificate.objects.filter(replaces=row))

    @admin.display(description="Events")
    def events(self, row: Certificate) -> SafeString:
        found = AuditEvent.objects.filter(subject_certificate=row.serial_number).order_by("-id")
        return render_to_string("portal/admin/_events.html", {"events": found[:EVENTS]})


def _expiry(row: Certificate, now: datetime) -> SafeString:
    return badges.expiry(row.not_after, now, in_force=row.state(now) == VALID)


def _linked(certificates: QuerySet[Certificate]) -> SafeString | str:
    found = certificates.order_by("-id").values_list("pk", "role", "name", "serial_number")[:SUCCESSORS]
    links = [
        (badges.page_of(Certificate, pk), f"{role}/{name}", badges.shortened(number))
        for pk, role, name, number in found
    ]
    return format_html_join(", ", '<a href="{}">{}</a> {}', links) or badges.NOTHING


@admin.register(Issuer)
class IssuerAdmin(Downloads):
    list_display = ("name", "kind", "current_state", "expires", "revoked", "reason")
    fieldsets = (
        (None, {"fields": ("name", "kind", "current_state", "chain", "downloads")}),
        ("Life", {"fields": ("expires", "revoked", "reason")}),
        ("Issued", {"fields": ("live", "newest_list")}),
    )
    shown = tuple(flatten_fieldsets(fieldsets))
    files = {"pem": _PEM}

    revoked = badges.time_of("revoked_at", "Revoked")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Issuer]:
        return Issuer.objects.defer("der")

    def stem(self, row: Issuer) -> str:
        return row.name

    @admin.display(description="State")
    def current_state(self, row: Issuer) -> SafeString:
        return _pill(_state(row, timezone.now()))

    @admin.display(description="Expires")
    def expires(self, row: Issuer) -> SafeString:
        return badges.expiry(row.not_after, timezone.now(), in_force=row.revoked_at is None)

    @admin.display(description="Chain")
    @or_unreadable
    def chain(self, row: Issuer) -> SafeString:
        return _chain([], row, timezone.now())

    @admin.display(description="Live certificates")
    def live(self, row: Issuer) -> SafeString:
        count = capped_count(Certificate.objects.filter(issuer=row).live(timezone.now()))
        address = f"{reverse('admin:certs_app_certificate_changelist')}?{ca_filters.OfIssuer.parameter_name}={row.pk}"
        return format_html("{} ({})", count, badges.link(address, "all it issued"))

    @admin.display(description="Newest revocation list")
    def newest_list(self, row: Issuer) -> SafeString | str:
        crl = Crl.objects.filter(issuer=row).defer("der").order_by("-number").first()
        if crl is None:
            return badges.NOTHING
        state = "fresh" if crl.next_update > timezone.now() else "stale"
        return format_html("{} {}", badges.link(badges.page_of(Crl, crl.pk), f"number {crl.number}"), _pill(state))


def _state(issuer: Issuer, now: datetime) -> str:
    if issuer.revoked_at is not None:
        return REVOKED
    return VALID if issuer.not_after > now else EXPIRED


def _chain(steps: list[dict[str, Any]], issuer: Issuer, now: datetime) -> SafeString:
    """Show the steps and, above them, this CA and its root."""
    above = list(ca_contents.up_to_root(issuer))
    steps = steps + [_step(one, now) for one in above]
    # The row that the page is about needs no link to itself.
    steps[0].pop("address", None)
    complete = above[-1].kind == Issuer.ROOT
    return render_to_string("portal/admin/_chain.html", {"steps": steps, "complete": complete})


def _step(issuer: Issuer, now: datetime) -> dict[str, Any]:
    certificate = issuer.certificate
    return {
        "title": str(issuer),
        "state": _pill(_state(issuer, now)),
        "subject": certificate.subject.rfc4514_string(),
        "not_before": certificate.not_valid_before_utc,
        "until": badges.expiry(issuer.not_after, now, in_force=issuer.revoked_at is None),
        "address": badges.page_of(Issuer, issuer.pk),
    }


@admin.register(Crl)
class CrlAdmin(Downloads):
    list_display = ("number", "issuer", "current_state", "published", "due", "size")
    list_filter = (ca_filters.OfIssuer,)
    fieldsets = (
        (None, {"fields": ("number", "issuer", "current_state", "published", "due", "size", "downloads")}),
        ("Revoked", {"fields": ("revoked",)}),
    )
    shown = tuple(flatten_fieldsets(fieldsets))
    files = {
        "crl": File("DER", "application/pkix-crl", bytes),
        "pem": File("PEM", "application/x-pem-file", lambda der: ca_contents.pem(ca_contents.CRL, der)),
    }

    published = badges.time_of("this_update", "This update")
    due = badges.time_of("next_update", "Next update")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Crl]:
        newer = Crl.objects.filter(issuer=OuterRef("issuer"), number__gt=OuterRef("number"))
        rows = Crl.objects.select_related("issuer").defer("der", "issuer__der")
        # The database tells a list's length without handing it over: fifty long ones are twenty megabytes.
        return rows.annotate(octets=Length("der"), replaced=Exists(newer))

    def stem(self, row: Crl) -> str:
        return f"{row.issuer.name}-{row.number}"

    @admin.display(description="State")
    def current_state(self, row: Any) -> SafeString:
        if row.replaced:
            return _pill("replaced")
        return _pill("fresh" if row.next_update > timezone.now() else "stale")

    @admin.display(description="Size")
    def size(self, row: Any) -> str:
        return filesizeformat(row.octets)

    @admin.display(description="Serial numbers")
    @or_unreadable
    def revoked(self, row: Crl) -> SafeString:
        entries, total = ca_contents.entries(row, ENTRIES)
        return render_to_string("portal/admin/_revoked.html", {"entries": entries, "total": total})


@admin.register(AuditEvent)
class AuditEventAdmin(LookOnly):
    list_display = ("when", "action", "who", "whom_and_serial", "detail", "digest_start")
    list_filter = (ca_filters.Action, ("at", ca_filters.Date))
    search_fields = ("actor", "subject")
    search_help_text = "The start of an actor's or subject's name, or of a serial number (0A:1B:…)"
    shown = ("when", "action", "who", "whose", "whom", "whom_serial", "detail", "chained", "own_digest")

    when = badges.time_of("at", "At")
    whose = badges.code_of("actor_certificate", "Actor's certificate")
    whom_serial = badges.code_of("subject_certificate", "Subject's certificate")
    chained = badges.code_of("previous", "Digest before")
    own_digest = badges.code_of("digest", "Digest")

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditEvent]:
        return AuditEvent.objects.annotate(
            actor_page=_certificate("actor_certificate"), subject_page=_certificate("subject_certificate")
        )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AuditEvent], search_term: str
    ) -> tuple[QuerySet[AuditEvent], bool]:
        return queryset.filter(ca_filters.events_like(search_term)) if search_term.strip() else queryset, False

    @admin.display(description="Actor")
    def who(self, event: Any) -> SafeString | str:
        return _named(event.actor, event.actor_page)

    @admin.display(description="Subject")
    def whom(self, event: Any) -> SafeString | str:
        return _named(event.subject, event.subject_page)

    @admin.display(description="Subject and its certificate")
    def whom_and_serial(self, event: Any) -> SafeString:
        # One above the other: side by side, the digest would have to be scrolled to.
        if not event.subject_certificate:
            return format_html("{}", self.whom(event))
        return format_html("{}<br>{}", self.whom(event), badges.shortened(event.subject_certificate))

    @admin.display(description="Digest")
    def digest_start(self, event: AuditEvent) -> SafeString | str:
        return badges.shortened(event.digest)


def _certificate(serial_number: str) -> Subquery:
    """Find the certificate with the serial number in this column, as part of the one query of a list."""
    found = Certificate.objects.filter(serial_number=OuterRef(serial_number))
    return Subquery(found.order_by("-id").values("pk")[:1])


def _named(name: str, certificate: int | None) -> SafeString | str:
    return badges.link(badges.page_of(Certificate, certificate), name) if certificate else name
