"""Values that do not open, or do not fit their row: counted, and each kept once, for people to look into."""

import logging
from typing import TYPE_CHECKING, ClassVar
from uuid import UUID

from django.db import DatabaseError, models, transaction
from django.utils import timezone

from registry import metrics
from registry.fields import BinaryUUIDField
from registry.keyring import KeyMissing
from registry.sealing import UNREADABLE, Malformed, Tampered

if TYPE_CHECKING:
    from registry.models import Message

logger = logging.getLogger(__name__)

KEY_MISSING, TAMPERED, MALFORMED, MISMATCH = "key_missing", "tampered", "malformed", "mismatch"
SEALED = ("sender_number", "message_body", "client_reference")
SEARCH_LIST = "search_list"
_REASONS: dict[type[Exception], str] = {KeyMissing: KEY_MISSING, Tampered: TAMPERED, Malformed: MALFORMED}

# What this process has written down, or tried to: a page that is shown again must not write again.
_known: set[tuple[UUID, str, str]] = set()
_MOST_KNOWN = 10_000


class Unreadable(models.Model):
    """A value that was found to be bad, when for the first time, and by which process."""

    uid = BinaryUUIDField(editable=False)
    column = models.CharField(max_length=24)
    reason = models.CharField(max_length=12, help_text="key_missing, tampered, malformed or mismatch")
    first_seen = models.DateTimeField()
    seen_by = models.CharField(max_length=24)

    class Meta:
        verbose_name_plural = "unreadable"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["uid", "column", "reason"], name="unreadable_once_per_reason")
        ]

    def __str__(self) -> str:
        return f"{self.column} of {self.uid}: {self.reason}"


def reason_of(error: Exception) -> str:
    """Return the closed name of one of registry.sealing.UNREADABLE."""
    return _REASONS[type(error)]


def note_all(message: "Message", seen_by: str) -> None:
    """Note each text of a message that does not open."""
    for column in SEALED:
        try:
            getattr(message, column)
        except UNREADABLE as error:
            note(message.uid, column, reason_of(error), seen_by)


def note_list(run: int) -> None:
    """Count and log a list of the search index that does not open."""
    metrics.UNREADABLE.labels(SEARCH_LIST, TAMPERED).inc()
    logger.error("a list of the search index cannot be read", extra={"run": run, "reason": TAMPERED})


def note(uid: UUID, column: str, reason: str, seen_by: str) -> None:
    """Count a bad value, log it, and write it down when it is new. Never raises: whoever met it has a page to show."""
    metrics.UNREADABLE.labels(column, reason).inc()
    logger.error("a stored value cannot be read", extra={"uid": uid, "column": column, "reason": reason})
    key = (uid, column, reason)
    if key in _known:
        return
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known.add(key)
    row = Unreadable(uid=uid, column=column, reason=reason, seen_by=seen_by, first_seen=timezone.now())
    try:
        with transaction.atomic():
            Unreadable.objects.bulk_create([row], ignore_conflicts=True)
    except DatabaseError as error:
        logger.warning("a bad value could not be written down", extra={"uid": uid, "reason": type(error).__name__})
