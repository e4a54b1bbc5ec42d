"""How the CA's tables are narrowed: filters with words of their own, and a search for names and serial numbers."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, ClassVar

from django.contrib.admin import DateFieldListFilter, ModelAdmin, SimpleListFilter
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from certs_app import audit
from certs_app.identity import read_serial_number
from certs_app.models import STATES, CertificateQuerySet, Issuer
from certs_app.profiles import CLIENT, SERVER

_OF_CERTIFICATES = (audit.ISSUED, audit.RENEWED, audit.SUPERSEDED, audit.REVOKED, audit.CA_MADE, audit.CA_REVOKED)
_OF_KEYS = (audit.KEY_ADDED, audit.KEY_PROMOTED, audit.KEY_RETIRED, audit.KEY_REACTIVATED, audit.KEY_DESTROYED)
_OF_MESSAGES = (audit.PURGED, audit.ERASED)
ACTIONS = (*_OF_CERTIFICATES, *_OF_KEYS, *_OF_MESSAGES)


class Words(SimpleListFilter):
    """A filter whose choices are known: Django's own asks the whole table for them (SELECT DISTINCT)."""

    words: ClassVar[tuple[str, ...]] = ()

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> Iterable[tuple[str, str]]:
        return [(word, word) for word in self.words]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        chosen = self.value()
        if chosen is None:
            return queryset
        if chosen not in {value for value, _ in self.lookup_choices}:
            # Everything, for somebody who asked for a part of it, would be a wrong answer.
            raise IncorrectLookupParameters(f"{self.parameter_name}: {chosen}")
        return self.narrow(queryset, chosen)

    def narrow(self, rows: Any, chosen: str) -> QuerySet[Any]:
        narrowed: QuerySet[Any] = rows.filter(**{str(self.parameter_name): chosen})
        return narrowed


class Usage(Words):
    title, parameter_name, words = "usage", "usage", (CLIENT, SERVER)


class State(Words):
    title, parameter_name, words = "state", "state", STATES

    def narrow(self, rows: CertificateQuerySet, chosen: str) -> QuerySet[Any]:
        return rows.in_state(chosen, timezone.now())


class Expiry(Words):
    """Those that still stand and end within so many days."""

    title, parameter_name = "expiry", "expires_within"

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> Iterable[tuple[str, str]]:
        return [(days, f"within {days} days") for days in ("7", "30", "90")]

    def narrow(self, rows: CertificateQuerySet, chosen: str) -> QuerySet[Any]:
        now = timezone.now()
        return rows.live(now).filter(not_after__lte=now + timedelta(days=int(chosen)))


class OfIssuer(Words):
    title, parameter_name = "issuer", "issuer"

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> Iterable[tuple[str, str]]:
        named = Issuer.objects.order_by("id").values_list("pk", "name")
        return [(str(pk), f"{name} CA") for pk, name in named]


class Action(Words):
    title, parameter_name, words = "action", "action", ACTIONS


class Date(DateFieldListFilter):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Not the column's name: "by at" is no English.
        self.title = "date"


def certificates_like(term: str) -> Q:
    """Match the start of a name, `role/start` as the audit writes it, or the start of a serial number.

    Starts, because an index finds them; the middle of a name would be looked for in every row.
    """
    role, _, name = term.strip().rpartition("/")
    owners = Q(name__istartswith=name, role=role) if role else Q(name__istartswith=name)
    return owners | _numbered("serial_number", term)


def events_like(term: str) -> Q:
    """Match the start of an actor's or a subject's name, with or without its role, or of a serial number."""
    found = Q()
    for column in ("actor", "subject"):
        found |= Q(**{f"{column}__istartswith": term.strip()})
        found |= Q(**{f"{column}__icontains": f"/{term.strip()}"})
        found |= Q(**{f"{column}__istartswith": f"operator:{term.strip()}"})
        found |= _numbered(f"{column}_certificate", term)
    return found


def _numbered(column: str, term: str) -> Q:
    number = read_serial_number(term)
    # An empty one would match every row.
    return Q(**{f"{column}__istartswith": number}) if number else Q(pk__in=())
