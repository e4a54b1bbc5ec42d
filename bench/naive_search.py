"""The same questions the plain way: what somebody would write who does not know better, on the same table."""

from collections.abc import Callable

from django.db import connection

from portal.opening import open_message
from registry.keyring import ring
from registry.models import Message
from registry.search import words
from registry.search.models import segment_of
from registry.search.sources import ids_of_segment, in_portions, of_rows

_TABLE = "bench_plain_tokens"
PAGE = 50


def scan(word: str) -> int:
    """Open every message, newest first, until a page is full. Returns the number of hits."""
    hits = 0
    for message in Message.objects.newest_first().iterator(chunk_size=2000):
        body = open_message(message).message_body
        if body is not None and word in words.split(body):
            hits += 1
            if hits == PAGE:
                break
    return hits


def offset(page: int) -> int:
    """Read a page by OFFSET, as Django's own paginator does."""
    return len(list(Message.objects.newest_first()[page * PAGE : (page + 1) * PAGE]))


def count() -> int:
    """Count all, as Django's own paginator does on every page."""
    return Message.objects.count()


def token_lookup(word: str) -> int:
    """Look into a table of (keyed hash of the word, message)."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT m.id, m.uid, m.message_body FROM {_TABLE} t JOIN registry_message m ON m.id = t.message_id"  # noqa: S608
            f" WHERE t.token = %s ORDER BY t.message_id DESC LIMIT {PAGE}",
            [_token(word)],
        )
        return len(cursor.fetchall())


def make_token_table(say: Callable[[str], None]) -> None:
    """Make that table for every message."""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {_TABLE}")
        cursor.execute(
            f"CREATE TABLE {_TABLE} (token BINARY(8), message_id BIGINT, PRIMARY KEY (token, message_id)) ENGINE=InnoDB"
        )
        newest = Message.objects.order_by("-id").values_list("id", flat=True)[0]
        for segment in range(segment_of(newest) + 1):
            rows = sorted(
                (_token(word), source.row_id)
                for source in of_rows(sorted(ids_of_segment(segment)))
                if source.message_body is not None
                for word in words.indexable(words.split(source.message_body))
            )
            for some in in_portions(rows, 5000):
                cursor.executemany(f"INSERT INTO {_TABLE} (token, message_id) VALUES (%s, %s)", some)  # noqa: S608
            say(f"plain tokens: segment {segment}")


def _token(word: str) -> bytes:
    return ring().token("bench:word", word.encode(), 8)
