"""Messages, encrypted, and what became of them."""

import itertools
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from django.db import models

from registry import blind_index, steps
from registry.canaries import Canary
from registry.checkpoints import Checkpoint
from registry.deadlocks import retried
from registry.fields import BinaryUUIDField, EncryptedTextField, FixedBinaryField
from registry.search.models import Posting, Run, Unindexed
from registry.steps import BACKWARD, PROGRESS, RECORDED, REGISTERED, Taken, Update
from registry.tampering import Unreadable
from wire.rules import MAX_BODY_CHARACTERS, MAX_REFERENCE_CHARACTERS

# Django looks for models here.
__all__ = [
    "Alias",
    "Canary",
    "Checkpoint",
    "DeadLetter",
    "DeadLetterReport",
    "Message",
    "Posting",
    "QueueReport",
    "Removed",
    "Run",
    "StatusEvent",
    "Unindexed",
    "Unreadable",
]

_UTF8_BYTES = 4

STATUSES = [(status, status) for status in PROGRESS]


class BackwardStep(Exception):
    """A status update would lead back, or from one end to the other."""


class MessageQuerySet(models.QuerySet["Message"]):
    def newest_first(self) -> "MessageQuerySet":
        return self.order_by("-received_at", "-id")

    def from_sender(self, number: str) -> "MessageQuerySet":
        """Those whose sender has this E.164 number. The index is a truncated hash: callers compare the opened text."""
        return self.filter(sender_index__in=blind_index.senders(number))

    def newest_from_sender(self, number: str, most: int) -> "list[Message]":
        """Return the newest of those, by a statement for each index key: one for several would sort all of them."""
        indexes = blind_index.senders(number)
        found: dict[int, Message] = {}
        # The first ones once more: reindex may move a row between two statements, from any key's index to any other's.
        for index in (*indexes, *indexes[:-1]):
            found |= {row.pk: row for row in self.filter(sender_index=index).newest_first()[:most]}
        return sorted(found.values(), key=lambda row: (row.received_at, row.pk), reverse=True)[:most]

    def of_client(self, client: str, uid: UUID) -> "Message | None":
        """Return a client's message by the id it was accepted under, its own or that of the same request sent again."""
        own = self.filter(client=client)
        return own.filter(uid=uid).first() or own.filter(aliases__uid=uid).first()

    def older_than(self, received_at: datetime, row_id: int) -> "MessageQuerySet":
        """The page after a row. This form keeps the index range on SQLite and MariaDB; a plain OR walks the index."""
        return self.filter(
            models.Q(received_at__lte=received_at) & (models.Q(received_at__lt=received_at) | models.Q(id__lt=row_id))
        )

    def in_pages(self, size: int) -> "Iterator[Message]":
        """Yield all, newest first, so many a statement: mysqlclient fetches a result as a whole."""
        page = list(self.newest_first()[:size])
        while page:
            yield from page
            page = list(self.older_than(page[-1].received_at, page[-1].pk).newest_first()[:size])

    def advance(self, updates: Sequence[Update], reporter: str) -> list[Taken]:
        """Take the steps of many messages in one transaction. In which order they are given counts for nothing."""
        return retried(lambda: self._advance(updates, reporter))

    def _advance(self, updates: Sequence[Update], reporter: str) -> list[Taken]:
        # In one order for all writers, so that they wait for each other instead of deadlocking.
        named = self.filter(uid__in={update.uid for update in updates}).only("id", "uid", "status").order_by("uid")
        rows = {row.uid: row for row in named.select_for_update()}
        events = StatusEvent.objects.filter(message__in=[row.pk for row in rows.values()])
        before = {uid: row.status for uid, row in rows.items()}
        taken, recorded = steps.take(updates, before, events.values_list("message__uid", "status"))
        StatusEvent.objects.bulk_create(
            StatusEvent(message=rows[one.uid], status=one.status, at=one.at, detail=one.detail, reporter=reporter)
            for one in recorded
        )
        # In the order they happened: the last one stands.
        for status, some in itertools.groupby(recorded, key=lambda one: one.status):
            self.filter(pk__in=[rows[one.uid].pk for one in some]).update(status=status)
        return taken


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
    # In the database, too: while it is upgraded, a registry of before still writes.
    accepted_by = models.CharField(
        max_length=64, db_default="", help_text="the ingest that signed for it; empty when it was posted in the clear"
    )

    objects = MessageQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["client", "idempotency"], name="message_idempotency_unique_per_client")
        ]
        indexes: ClassVar = [
            models.Index(fields=["received_at", "id"], name="message_by_time"),
            models.Index(fields=["sender_index", "received_at", "id"], name="message_by_sender"),
            models.Index(fields=["client", "received_at", "id"], name="message_by_client"),
            models.Index(fields=["status", "received_at", "id"], name="message_by_status"),
        ]

    def __str__(self) -> str:
        return str(self.uid)

    def advance(self, status: str, at: datetime, detail: str, reporter: str) -> bool:
        """Take one step; return False when this step is known already. Raises BackwardStep."""
        (taken,) = Message.objects.advance([Update(self.uid, status, at, detail)], reporter)
        self.status = taken.status
        if taken.outcome == BACKWARD:
            raise BackwardStep(f"message {self.uid} is {self.status}: it cannot become {status}")
        return taken.outcome == RECORDED


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


class DeadLetterReport(models.Model):
    """What the workers of one queue reported last: how many dead letters it has, and the newest of them."""

    queue = models.CharField(max_length=64, unique=True)
    total = models.PositiveIntegerField()
    reported_at = models.DateTimeField()
    reporter = models.CharField(max_length=81, help_text="role/name of the certificate that reported it")

    def __str__(self) -> str:
        return f"{self.queue}: {self.total}"


class DeadLetter(models.Model):
    """An envelope the registry rejected for good, as a worker reported it: its content stays at the worker's queue."""

    report = models.ForeignKey(DeadLetterReport, on_delete=models.CASCADE, related_name="letters")
    envelope_id = models.CharField(max_length=64)
    code = models.CharField(max_length=64)
    at = models.DateTimeField()

    class Meta:
        ordering = ("-at", "-id")
        constraints: ClassVar = [models.UniqueConstraint(fields=["report", "envelope_id"], name="dead_letter_once")]

    def __str__(self) -> str:
        return self.envelope_id


class Alias(models.Model):
    """An id that was accepted for a message which is stored under another: the same request, sent twice."""

    uid = BinaryUUIDField(unique=True, editable=False)
    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="aliases")
    accepted_by = models.CharField(max_length=64, help_text="the ingest that signed for it")

    class Meta:
        verbose_name_plural = "aliases"

    def __str__(self) -> str:
        return f"{self.uid} is {self.message_id}"


class Removed(models.Model):
    """An id whose message was purged or erased. It counts as stored in the balance sheet, and never comes back: whoever
    delivers it again is told that it is a duplicate.
    """

    uid = BinaryUUIDField(primary_key=True, editable=False)
    client = models.CharField(max_length=81)
    accepted_by = models.CharField(max_length=64, blank=True)
    removal = models.CharField(max_length=48, help_text="the purge or erasure, as the audit names it")

    class Meta:
        verbose_name_plural = "removed"

    def __str__(self) -> str:
        return str(self.uid)


class QueueReport(models.Model):
    """What an ingest said last of its queue and its balance sheet: the portal, which sees no Redis, shows it."""

    ingest = models.CharField(max_length=64, unique=True)
    reported_at = models.DateTimeField()
    depth = models.PositiveBigIntegerField(help_text="envelopes in the queue")
    held = models.PositiveBigIntegerField(help_text="envelopes that workers have in hand")
    dead = models.PositiveBigIntegerField(help_text="dead letters")
    oldest_at = models.DateTimeField(null=True, help_text="when the oldest envelope in the queue was sealed")
    unaccounted = models.PositiveBigIntegerField(help_text="accepted messages that are nowhere")
    settled_until = models.DateTimeField(
        null=True, help_text="what was accepted before is stored, queued or dead; empty until the first comparison"
    )

    class Meta:
        ordering = ("ingest",)

    def __str__(self) -> str:
        return self.ingest
