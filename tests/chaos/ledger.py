"""Where every message is: in the table, in Redis, or nowhere."""

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import redis

from tests.running import ROOT

QUEUE = "deliver"
# Opening an envelope takes the registry's key: a process with the registry's settings does it.
OPEN = """
import base64, json, sys, django
django.setup()
from registry import envelopes
from wire import envelope
for line in sys.stdin:
    try:
        blob = envelope.parse(base64.b64decode(json.loads(line)))
        print(json.dumps([str(message.id) for message in envelopes.read(blob)]))
    except (envelope.EnvelopeError, ValueError) as error:
        print(json.dumps([]))
"""


@dataclass(frozen=True)
class InRedis:
    """What lies in Redis: raw Celery entries; of a dead letter of old, the envelope alone."""

    queued: Sequence[bytes] = ()
    held: Sequence[bytes] = ()
    dead: Sequence[bytes] = ()

    def __len__(self) -> int:
        return len(self.queued) + len(self.held)


def what_is_in_redis(client: redis.Redis) -> InRedis:
    """Read all of it. Both forms of holding and of dead letters are known, kombu's and our own: whichever is there."""
    held = [_first(value) for value in client.hvals("unacked")]
    for key in _held_keys(client):
        held += client.hvals(key)
    dead = [_of_letter(value) for value in client.lrange(f"{QUEUE}.dead", 0, -1)]
    dead += [_of_letter(value) for value in client.hvals(f"{QUEUE}.dead_letters")]
    return InRedis(client.lrange(QUEUE, 0, -1), held, dead)


def backlog(client: redis.Redis) -> int:
    """Count what is queued, or held by a worker that is known. Quick: asked again and again."""
    workers = client.zrange(f"{QUEUE}.workers", 0, -1)
    held = [f"{QUEUE}.held:".encode() + worker for worker in workers]
    return int(client.llen(QUEUE) + sum(client.hlen(key) for key in [b"unacked", *held]))


def _held_keys(client: redis.Redis) -> list[bytes]:
    """Find what anybody holds, also a worker that is known no more."""
    return [key for key in client.scan_iter(f"{QUEUE}.held:*", count=5000) if not key.endswith(b":since")]


def _first(value: bytes) -> bytes:
    return json.dumps(json.loads(value)[0]).encode()


def _of_letter(value: bytes) -> bytes:
    letter = json.loads(value)
    return str(letter.get("entry", letter.get("envelope"))).encode()


def messages_of(entries: Iterable[bytes], environment: dict[str, str]) -> list[str]:
    """Open entries; return the ids of the messages in them."""
    envelopes = "".join(json.dumps(_envelope(entry)) + "\n" for entry in entries)
    if not envelopes:
        return []
    done = subprocess.run(
        [sys.executable, "-c", OPEN],
        env={**environment, "DJANGO_SETTINGS_MODULE": "msgsys_project.settings.registry"},
        cwd=ROOT,
        input=envelopes,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return [uid for line in done.stdout.splitlines() for uid in json.loads(line)]


def _envelope(entry: bytes) -> str:
    try:
        arguments = json.loads(json.loads(entry)["body"])[0]
        return str(arguments[1])
    except (ValueError, TypeError, KeyError, IndexError):
        return entry.decode(errors="replace")


def rows(database: Path, url: str = "") -> Counter[str]:
    """Count the rows of each message id, past the application: in SQLite's file, or in the server that `url` names."""
    query = "SELECT uid FROM registry_message"
    connection = _mariadb(url) if url else sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)
    with contextlib.closing(connection):
        cursor = connection.cursor()
        cursor.execute(query)
        return Counter(str(UUID(bytes=bytes(uid))) for (uid,) in cursor)


def _mariadb(url: str) -> Any:
    import MySQLdb  # only there when requirements-mysql.txt is installed

    parts = urlsplit(url)
    return MySQLdb.connect(
        host=parts.hostname, port=parts.port, user=parts.username, passwd=parts.password, db=parts.path[1:]
    )


@dataclass(frozen=True)
class Balance:
    """accepted = stored + queued + held + dead, every id in one place, every row once and sent by somebody."""

    accepted: int
    stored: int
    waiting: int
    dead: int
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def violations(self) -> list[str]:
        said = {
            "accepted, but nowhere": self.lost,
            "more than once": self.doubled,
            "stored, but nobody was told this id": self.unknown,
        }
        return [f"{len(ids)} {what}: {', '.join(sorted(ids)[:20])}" for what, ids in said.items() if ids]


def balance(accepted: Sequence[str], stored: Counter[str], waiting: Sequence[str], dead: Sequence[str]) -> Balance:
    """Compare what clients were told with where messages are."""
    told = Counter(accepted)
    elsewhere = set(waiting) | set(dead)
    doubled = [uid for uid, count in (told + Counter()).items() if count > 1]
    doubled += [uid for uid, count in stored.items() if count > 1]
    return Balance(
        accepted=len(accepted),
        stored=sum(stored[uid] for uid in told),
        # Queued and stored at once is no harm: delivered again, it is a duplicate that the registry knows.
        waiting=len(set(waiting) - set(stored)),
        dead=len(set(dead) - set(stored)),
        lost=[uid for uid in told if uid not in stored and uid not in elsewhere],
        doubled=doubled,
        unknown=[uid for uid in stored if uid not in told],
    )
