"""Django's admin: messages and certificates to look at, users and groups as Django manages them."""

from typing import TYPE_CHECKING, Any, ClassVar, cast

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

from certs_app.models import Certificate, Crl, Issuer
from portal.counting import Count, capped_count
from portal.opening import open_message
from registry.models import Message, StatusEvent

admin.site.site_header = "msgsys"
admin.site.site_title = "msgsys"
admin.site.index_title = "Administration"

if TYPE_CHECKING:
    _Admin = admin.ModelAdmin[Any]
    _Paginator = Paginator[Any]
else:
    _Admin, _Paginator = admin.ModelAdmin, Paginator


class CappedPaginator(_Paginator):
    """Pages of the newest rows: what lies behind the cap is not counted, so no page of it can be asked for."""

    @cached_property
    def counted(self) -> Count:
        # The stubs allow lists too; the admin pages through querysets only.
        return capped_count(cast("QuerySet[Any]", self.object_list))

    @cached_property
    def count(self) -> int:
        return self.counted.number


class LookOnly(_Admin):
    """A table that any staff member may look at and nobody may change, superusers included."""

    actions = None
    ordering = ("-id",)
    # Sorting by a column without an index would sort the whole table.
    sortable_by = ()
    paginator = CappedPaginator
    list_per_page = 50
    list_max_show_all = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    shown: ClassVar[tuple[str, ...]] = ()

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return self.shown

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return self.shown

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return bool(request.user.is_active and request.user.is_staff)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(Message)
class MessageAdmin(LookOnly):
    list_display = ("uid", "received_at", "client", "status", "stored_at")
    shown = (
        "uid",
        "client",
        "certificate",
        "sender",
        "body",
        "reference",
        "sent_at",
        "received_at",
        "stored_at",
        "status",
    )

    @admin.display(description="Sender number")
    def sender(self, message: Message) -> str:
        return _shown(message, "sender_number")

    @admin.display(description="Message body")
    def body(self, message: Message) -> str:
        return _shown(message, "message_body")

    @admin.display(description="Client reference")
    def reference(self, message: Message) -> str:
        return _shown(message, "client_reference")


def _shown(message: Message, name: str) -> str:
    opened = open_message(message)
    return "unreadable" if name in opened.unreadable else getattr(opened, name) or "-"


@admin.register(StatusEvent)
class StatusEventAdmin(LookOnly):
    list_display = ("message_uid", "status", "at", "recorded_at", "reporter")
    shown = ("message", "status", "at", "recorded_at", "detail", "reporter")

    def get_queryset(self, request: HttpRequest) -> QuerySet[StatusEvent]:
        # Of the message only its uid is shown here: its sealed texts stay in the database.
        sealed = ("message__sender_number", "message__message_body", "message__client_reference")
        return StatusEvent.objects.select_related("message").defer(*sealed)

    @admin.display(description="Message")
    def message_uid(self, event: StatusEvent) -> str:
        return str(event.message.uid)


@admin.register(Certificate)
class CertificateAdmin(LookOnly):
    list_display = ("name", "role", "usage", "serial_number", "not_after", "revoked_at", "reason")
    list_filter = ("role", "usage")
    search_fields = ("name", "serial_number")
    shown = (
        "name",
        "role",
        "usage",
        "issuer",
        "serial_number",
        "fingerprint",
        "spki_sha256",
        "not_before",
        "not_after",
        "revoked_at",
        "reason",
    )


@admin.register(Crl)
class CrlAdmin(LookOnly):
    list_display = ("number", "issuer", "this_update", "next_update")
    list_select_related = ("issuer",)
    shown = ("number", "issuer", "this_update", "next_update")


@admin.register(Issuer)
class IssuerAdmin(LookOnly):
    list_display = ("name", "not_after")
    shown = ("name", "not_after")
