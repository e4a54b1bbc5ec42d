"""Fill the registry's tables for the search benchmark: the rows and the index that the product itself would make."""

import sys
import time
from datetime import UTC, datetime, timedelta

from django.db import connection
from django.utils import timezone

from bench.corpus import Corpus
from registry.models import Message
from registry.search import building, words
from registry.search.models import SEGMENT_ROWS, Run, Unindexed
from registry.search.sources import in_portions
from registry.storing import Arrival, store
from wire import ids, messages

# One message a minute, the last one at this moment: a range of days is a share of the table.
LAST = datetime(2026, 6, 30, 12, 0, tzinfo=UTC)
APART = timedelta(minutes=1)
CLIENTS = ["alice", "dave", "erin", "frank", "grace"]
_ROWS_A_STATEMENT = 1000
# What the benchmark calls failed; the others stay registered.
FAILED_EVERY = 50


def fill(count: int) -> None:
    """Store messages until there are `count`, and index all but the newest few hundred. Goes on where it stopped."""
    corpus = Corpus(seed=count)
    have = Message.objects.count()
    for start in range(have, count, SEGMENT_ROWS):
        _store(corpus, start, min(start + SEGMENT_ROWS, count), count)
        _say(f"{min(start + SEGMENT_ROWS, count):,} of {count:,} stored")
        building.index_new(timezone.now())
    _leave_some_waiting()


def _store(corpus: Corpus, start: int, end: int, count: int) -> None:
    numbers = range(start, end)
    for some in in_portions(numbers, _ROWS_A_STATEMENT):
        arrivals = []
        for number, text in zip(some, corpus.draw(len(some)), strict=True):
            at = LAST - APART * (count - number)
            message = messages.Message(
                id=ids.new_id(at.timestamp()),
                client=CLIENTS[number * 7 % len(CLIENTS)],
                certificate="a1b2c3",
                **text._asdict(),
            )
            arrivals.append(Arrival.of(message))
        store(arrivals, LAST)
        failed = [one.uid for number, one in zip(some, arrivals, strict=True) if number % FAILED_EVERY == 0]
        Message.objects.filter(uid__in=failed).update(status="failed")


def _leave_some_waiting() -> None:
    """A registry at work has some messages that are in no run yet: take them out of the newest."""
    waiting = building.WORTH_A_RUN
    if Unindexed.objects.count() >= waiting:
        return
    _store(Corpus(seed=0), Message.objects.count(), Message.objects.count() + waiting, Message.objects.count())


def sizes() -> dict[str, float]:
    """Return bytes per message of each table and each of its indexes. MariaDB only; 0 for what it does not tell."""
    with connection.cursor() as cursor:
        for table in ("registry_message", "registry_search_posting", "registry_search_run", "registry_unindexed"):
            cursor.execute(f"ANALYZE TABLE {table}")
            cursor.fetchall()
        cursor.execute(
            "SELECT table_name, index_name, stat_value * @@innodb_page_size FROM mysql.innodb_index_stats"
            " WHERE database_name = DATABASE() AND stat_name = 'size' AND table_name LIKE 'registry\\_%'"
        )
        messages_stored = Message.objects.count()
        return {f"{table}.{index}": float(size) / messages_stored for table, index, size in cursor.fetchall()}


def read_through() -> None:
    """Have the server read every table and index once, as one that has been at work for long has: that is warm."""
    with connection.cursor() as cursor:
        for table, column in (("registry_message", "message_body"), ("registry_search_posting", "sealed")):
            cursor.execute(f"SELECT SUM(LENGTH({column})) FROM {table}")  # noqa: S608  constants
            cursor.fetchall()
        for index in Message._meta.indexes:
            cursor.execute(f"SELECT COUNT(*) FROM registry_message FORCE INDEX ({index.name})")  # noqa: S608  as above
            cursor.fetchall()


def describe() -> str:
    """Say in one line what is there."""
    runs = Run.objects.filter(version=words.VERSION).count()
    return f"{Message.objects.count():,} messages, {runs} runs, {Unindexed.objects.count()} waiting"


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
