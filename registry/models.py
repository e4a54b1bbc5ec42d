"""Messages, encrypted, and what became of them."""

from collections.abc import Iterable
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from django.db import IntegrityError, models, transaction

from registry import blind_index
from registry.fields import BinaryUUIDField, EncryptedTextField, FixedBinaryField
from wire.rules import MAX_BODY_CHARACTERS, MAX_REFERENCE_CHARACTERS

_UTF8_BYTES = 4

REGISTERED, DISPATCHED, DELIVERED, FAILED = "registered", "dispatched", "delivered", "failed"
# How far along a status is: a step leads only to a higher number, so delivered and failed are both ends.
PROGRESS = {REGISTERED: 0, DISPATCHED: 1, DELIVERED: 2, FAILED: 2}
STATUSES = [(status, status) for status in PROGRESS]


class BackwardStep(Exception):
    """A status update would lead back, or from one end to the other."""


class MessageQuerySet(models.QuerySet["Message"]):
    def newest_first(self) -> "MessageQuerySet":
        return self.order_by("-received_at", "-id")

    def from_sender(self, number: str) -> "MessageQuerySet":
        """Those whose sender has this E.164 number. The index is a truncated hash: callers compare the opened text."""
        return self.filter(sender_index=blind_index.sender(number))

    def older_than(self, received_at: datetime, row_id: int) -> "MessageQuerySet":
        """The page after a row. This form keeps the index range on SQLite and MariaDB; a plain OR walks the index."""
        return self.filter(models.Q(received_at__lte=received_at) & (models.Q(received_at__lt=received_at) | models.Q(id__lt=row_id)))

    def store(self, messages: Iterable["Message"]) -> set[UUID]:
        """Insert what is new; return the uids inserted. The unique constraints decide, not a look beforehand."""
        known = set(self.filter(uid__in=[message.uid for message in messages]).values_list("uid", flat=True))
        new = [message for message in messages if message.uid not in known]
        try:
            with transaction.atomic():
                self.bulk_create(new)
            return {message.uid for message in new}
        except IntegrityError:
            # Somebody stored one of them just now, or an idempotency key came twice: find out which, one by one.
            return {message.uid for message in new if self._store_one(message)}

    def _store_one(self, message: "Message") -> bool:
        try:
            with transaction.atomic():
                message.pk = None
                message.save(force_insert=True)
        except IntegrityError:
            return False
        return True


class Message(models.Model):
    """One message. `received_at` is the time inside `uid`; personal data is sealed for its row and column."""

    uid = BinaryUUIDField(unique=True, editable=False)
    client = models.CharField(max_length=64, help_text="name in the certificate that sent it")
    certificate = models.CharField(max_length=40, help_text="serial number of that certificate, hex")
    sender_number = EncryptedTextField(label="registry.message.sender_number", max_bytes=32)
    message_body = EncryptedTextField(label="registry.message.message_body", max_bytes=MAX_BODY_CHARACTERS * _UTF8_BYTES)
    client_reference = EncryptedTextField(
        label="registry.message.client_reference", max_bytes=MAX_REFERENCE_CHARACTERS * _UTF8_BYTES, null=True
    )
    sent_at = models.DateTimeField(null=True)
    received_at = models.DateTimeField()
    stored_at = models.DateTimeField()
    status = models.CharField(max_length=12, choices=STATUSES, default=REGISTERED)
    sender_index = FixedBinaryField(length=blind_index.SENDER_BYTES)
    idempotency = FixedBinaryField(length=32, null=True, help_text="SHA-256 of the client's Idempotency-Key")

    objects = MessageQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["client", "idempotency"], name="message_idempotency_unique_per_client")
        ]
        indexes: ClassVar = [
            models.Index(fields=["received_at", "id"], name="message_by_time"),
            models.Index(fields=["sender_index", "received_at", "id"], name="message_by_sender"),
        ]

    def __str__(self) -> str:
        return str(self.uid)

    def advance(self, status: str, at: datetime, detail: str, reporter: str) -> bool:
        """Take one step; return False when this step is known already. Raises BackwardStep."""
        with transaction.atomic():
            locked = Message.objects.select_for_update().only("id", "status").get(pk=self.pk)
            if locked.events.filter(status=status).exists() or status == REGISTERED == locked.status:
                return False
            if PROGRESS[status] <= PROGRESS[locked.status]:
                raise BackwardStep(f"message {self.uid} is {locked.status}: it cannot become {status}")
            StatusEvent.objects.create(message=locked, status=status, at=at, detail=detail, reporter=reporter)
            Message.objects.filter(pk=self.pk).update(status=status)
        self.status = status
        return True


class StatusEvent(models.Model):
    """A step a message took after it was registered."""

    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="events")
    status = models.CharField(max_length=12, choices=STATUSES)
    at = models.DateTimeField(help_text="when it happened, as reported")
    recorded_at = models.DateTimeField(auto_now_add=True)
    detail = models.CharField(max_length=200, blank=True)
    reporter = models.CharField(max_length=81, help_text="role/name of the certificate that reported it")

    class Meta:
        ordering = ("id",)
        constraints: ClassVar = [models.UniqueConstraint(fields=["message", "status"], name="status_once_per_message")]

    def __str__(self) -> str:
        return f"{self.message_id} {self.status}"
