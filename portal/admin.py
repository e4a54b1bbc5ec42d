"""Django's admin: messages to look at, users and groups as Django manages them. ca_admin adds what the CA made."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from portal import ca_admin  # noqa: F401  registers the CA's tables
from portal.look_only import LookOnly
from portal.opening import open_message
from registry.models import Message, StatusEvent, Unreadable

admin.site.site_header = "msgsys"
admin.site.site_title = "msgsys"
admin.site.index_title = "Administration"


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


@admin.register(Unreadable)
class UnreadableAdmin(LookOnly):
    list_display = ("uid", "column", "reason", "first_seen", "seen_by")
    shown = list_display
