"""The tables of the search index.

Messages are indexed in runs: some rows of one segment, of 65,536 neighbouring ids. A message is in exactly one place:
`Unindexed`, or the members of one run.
"""

from collections.abc import Sequence
from typing import ClassVar
from uuid import UUID

from django.db import connections, models

from registry.fields import BoundedBinaryField, FixedBinaryField
from registry.search import postings, terms

SEGMENT_ROWS = postings.ROWS
LOCATOR_BYTES = 4 + terms.LABEL_BYTES
DIGEST_BYTES = 32


def segment_of(row_id: int) -> int:
    """Return the number of the segment a row belongs to."""
    return row_id // SEGMENT_ROWS


class UnindexedQuerySet(models.QuerySet["Unindexed"]):
    def note(self, uids: Sequence[UUID]) -> None:
        """Have stored messages wait for the index, in the transaction that stores them.

        By one statement that asks the database for their ids: MySQL does not tell them after a bulk insert.
        """
        if not uids:
            return
        slots = ", ".join(["%s"] * len(uids))
        with connections[self.db].cursor() as cursor:
            cursor.execute(
                f"INSERT INTO registry_unindexed (message_id) SELECT id FROM registry_message WHERE uid IN ({slots})",  # noqa: S608  slots are %s, nothing else
                [uid.bytes for uid in uids],
            )


class Unindexed(models.Model):
    """A message that is in no run yet: a search opens and compares it."""

    message_id = models.BigIntegerField(primary_key=True)

    objects = UnindexedQuerySet.as_manager()

    class Meta:
        db_table = "registry_unindexed"
        verbose_name_plural = "unindexed"

    def __str__(self) -> str:
        return str(self.message_id)


class Run(models.Model):
    """The manifest of one run: what belongs to it, so that what is missing from it is noticed.

    `members` are the numbers of its rows, as in the plain form of registry.search.postings. `digest` is keyed:
    registry.search.manifests says over what.
    """

    segment = models.PositiveIntegerField()
    key_id = models.PositiveIntegerField(help_text="index key that its labels and lists come from")
    version = models.PositiveSmallIntegerField(help_text="version of registry.search.words")
    messages = models.PositiveIntegerField()
    lists = models.PositiveIntegerField(help_text="rows in the table of postings")
    first_received = models.DateTimeField()
    last_received = models.DateTimeField()
    members = BoundedBinaryField(max_bytes=postings.MAX_STORED_BYTES)
    digest = FixedBinaryField(length=DIGEST_BYTES)
    made_at = models.DateTimeField()
    stale = models.BooleanField(default=False, help_text="messages of it were removed: it must be made anew")

    class Meta:
        db_table = "registry_search_run"
        indexes: ClassVar = [models.Index(fields=["segment", "id"], name="search_run_by_segment")]

    def __str__(self) -> str:
        return f"run {self.pk} of segment {self.segment}"


class Posting(models.Model):
    """One sealed list. `locator` is the run (4 bytes, big-endian) and the label (8 bytes): one column, because a lookup
    of many (run, label) pairs makes SQLite scan the table.
    """

    locator = FixedBinaryField(length=LOCATOR_BYTES, primary_key=True)
    sealed = BoundedBinaryField(max_bytes=postings.MAX_STORED_BYTES)

    class Meta:
        db_table = "registry_search_posting"

    def __str__(self) -> str:
        return f"a list of run {int.from_bytes(self.locator[:4])}"


def locator(run: int, label: bytes) -> bytes:
    """Return where a list lies."""
    return run.to_bytes(4) + label


def locators(run: int) -> tuple[bytes, bytes]:
    """Return the first and the last place that a run's lists can have."""
    return locator(run, bytes(terms.LABEL_BYTES)), locator(run, b"\xff" * terms.LABEL_BYTES)
