"""Long work over a table, in the order of its ids: what is done is written with each batch, so killed work goes on."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from django.db import models, transaction
from django.utils import timezone

from registry.deadlocks import retried

BATCH_ROWS = 500

Rows = Sequence[tuple[Any, ...]]


class Checkpoint(models.Model):
    """How far one job is: everything up to `last_id` is done. Counts are of rows; `rate` is that of the last batch."""

    job = models.CharField(max_length=80, unique=True)
    last_id = models.PositiveBigIntegerField(default=0)
    done = models.PositiveBigIntegerField(default=0)
    skipped = models.PositiveBigIntegerField(default=0)
    failed = models.PositiveBigIntegerField(default=0)
    rate = models.FloatField(default=0, help_text="rows a second")
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "registry_checkpoint"

    def __str__(self) -> str:
        return f"{self.job} up to {self.last_id}"


@dataclass
class Outcome:
    """What became of a batch's rows."""

    done: int = 0
    skipped: int = 0
    failed: int = 0


def begin(job: str, now: datetime) -> Checkpoint:
    """Return the checkpoint of a job that was left unfinished; that of a finished one starts anew."""
    fresh = {"last_id": 0, "done": 0, "skipped": 0, "failed": 0, "rate": 0, "started_at": now, "finished_at": None}
    with transaction.atomic():
        checkpoint, made = Checkpoint.objects.select_for_update().get_or_create(job=job, defaults=fresh)
        if not made and checkpoint.finished_at is not None:
            Checkpoint.objects.filter(pk=checkpoint.pk).update(**fresh)
            checkpoint.refresh_from_db()
    return checkpoint


def batches(
    checkpoint: Checkpoint, read: Callable[[int, int], Rows], handle: Callable[[Rows], Outcome], rate: int = 0
) -> Iterator[Checkpoint]:
    """Handle the rows that `read(after, at most)` returns, the id first in each, and yield after every batch's commit.

    `rate` is the most rows a second; 0: as many as there can be. Two who work at one job share its rows. After a
    deadlock a batch is read and handled once more.
    """
    most = min(BATCH_ROWS, rate) if rate else BATCH_ROWS
    batch = partial(_batch, checkpoint.pk, read, handle, most)
    while True:
        began = time.monotonic()
        checkpoint, rows = retried(batch)
        yield checkpoint
        if not rows:
            return
        if rate:
            time.sleep(max(0, began + rows / rate - time.monotonic()))


def _batch(
    pk: int, read: Callable[[int, int], Rows], handle: Callable[[Rows], Outcome], most: int
) -> tuple[Checkpoint, int]:
    """Handle one batch; return the checkpoint and the number of rows, 0 at the end of the table."""
    began = time.monotonic()
    checkpoint = Checkpoint.objects.select_for_update().get(pk=pk)
    rows = read(checkpoint.last_id, most)
    if rows:
        _count(checkpoint, handle(rows))
        checkpoint.last_id = rows[-1][0]
        checkpoint.rate = len(rows) / max(time.monotonic() - began, 1e-6)
    else:
        checkpoint.finished_at = timezone.now()
    checkpoint.save()
    return checkpoint, len(rows)


def _count(checkpoint: Checkpoint, outcome: Outcome) -> None:
    checkpoint.done += outcome.done
    checkpoint.skipped += outcome.skipped
    checkpoint.failed += outcome.failed
