"""Messages, encrypted, and what became of them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import ClassVar
from uuid import UUID

from django.db import DatabaseError, IntegrityError, models, transaction

from registry import blind_index
from registry.fields import BinaryUUIDField, EncryptedTextField, FixedBinaryField
from registry.sealing import UNREADABLE
from wire.rules import MAX_BODY_CHARACTERS, MAX_REFERENCE_CHARACTERS

_UTF8_BYTES = 4
_BULK_TRIES = 3
_MYSQL_DEADLOCK = 1213
# How long ingest remembers a key: what comes later under the same one is another message.
_IDEMPOTENCY_LIFE = timedelta(hours=24)

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
        return self.filter(
            models.Q(received_at__lte=received_at) & (models.Q(received_at__lt=received_at) | models.Q(id__lt=row_id))
        )

    def store(self, messages: Sequence["Message"]) -> set[UUID]:
        """Insert what is new; return the uids inserted. The unique constraints decide, not a look beforehand."""
        for _ in range(_BULK_TRIES):
            new = self._unknown(messages)
            try:
                with transaction.atomic():
                    self.bulk_create(new)
                return {message.uid for message in new}
            except DatabaseError as error:
                if not _is_conflict(error):
                    raise
                for message in new:
                    # A commit refused at the very end (Galera) leaves the rolled-back rows' numbers behind.
                    message.pk = None
        # An idempotency key came under several ids: find out which, one by one.
        return {message.uid for message in new if self._store_one(message)}

    def _unknown(self, messages: Sequence["Message"]) -> list["Message"]:
        known = set(self.filter(uid__in=[message.uid for message in messages]).values_list("uid", flat=True))
        unknown = {message.uid: message for message in messages if message.uid not in known}
        # In one order for all writers: two with the same rows then wait for each other more often than they deadlock.
        return [unknown[uid] for uid in sorted(unknown)]

    def _store_one(self, message: "Message") -> bool:
        try:
            with transaction.atomic():
                message.save(force_insert=True)
        except IntegrityError:
            # Never taken for a duplicate unseen: the caller would let go of a message that is stored nowhere.
            if self.filter(uid=message.uid).exists():
                return False
            holder = message.idempotency and self.filter(client=message.client, idempotency=message.idempotency).first()
            if not holder:
                raise
            if holder.is_same_request(message):
                return False
            message.idempotency = None
            return self._store_one(message)
        return True


def _is_conflict(error: DatabaseError) -> bool:
    """Tell whether somebody else has just stored, or is storing, one of the same rows."""
    return isinstance(error, IntegrityError) or error.args[:1] == (_MYSQL_DEADLOCK,)


class Message(models.Model):
    """One message. `received_at` is the time inside `uid`; personal data is sealed for its row and column."""

    uid = BinaryUUIDField(unique=True, editable=False)
    client = models.CharField(max_length=81, help_text="name in the certificate that sent it; role:name if no client's")
    certificate = models.CharField(max_length=40, help_text="serial number of that certificate, hex")
    sender_number = EncryptedTextField(label="registry.message.sender_number", max_bytes=32)
    message_body = EncryptedTextField(
        label="registry.message.message_body", max_bytes=MAX_BODY_CHARACTERS * _UTF8_BYTES
    )
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

    def is_same_request(self, other: "Message") -> bool:
        """Tell whether `other`, under the same idempotency key, is this message sent again."""
        if abs(other.received_at - self.received_at) >= _IDEMPOTENCY_LIFE:
            return False
        try:
            return (self.sender_number, self.message_body) == (other.sender_number, other.message_body)
        except UNREADABLE:
            # It cannot be told: better twice than never.
            return False

    def advance(self, status: str, at: datetime, detail: str, reporter: str) -> bool:
        """Take one step; return False when this step is known already. Raises BackwardStep."""
        with transaction.atomic():
            locked = Message.objects.select_for_update().only("id", "status").get(pk=self.pk)
            if locked.events.filter(status=status).exists():
                self.status = locked.status
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
