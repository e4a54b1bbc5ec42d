"""Fill a queue with real envelopes: one message each, sealed as ingest does. Several processes share the sealing.

`python -m bench.filling QUEUE COUNT`, under ingest's settings, seals its part and prints the id of its first message.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import UUID

import click
import django
import redis
from celery import Celery
from django.conf import settings

from bench import STOCK_QUEUE, STOCK_TASK
from bench.contestants import OUR_QUEUE
from tests.running import ROOT, Installation
from wire.ids import following, new_id
from wire.messages import Message

PUSH_AT_ONCE = 500
# Of ordinary size: what field systems send.
BODY = "Pump 7: pressure 4.2 bar, temperature 61 C, filter 83 %. Next service in 212 hours. " * 3


def fill(installed: Installation, client: "redis.Redis", queue: str, count: int) -> list[tuple[UUID, UUID]]:
    """Put `count` messages into `queue`; return the ranges of their ids, each from first to last."""
    processes = os.cpu_count() or 1
    parts = [count // processes + (one < count % processes) for one in range(processes)]
    with ExitStack() as running:
        sealing = [running.enter_context(_spawn(installed, queue, part)) for part in parts]
        _show(client, queue, count, sealing)
        firsts = [UUID(one.communicate()[0].strip()) for one in sealing]
    if any(one.returncode for one in sealing) or client.llen(queue) != count:
        raise RuntimeError(f"the queue {queue} holds {client.llen(queue)} messages instead of {count}")
    return [(first, following(first, part - 1)) for first, part in zip(firsts, parts, strict=True) if part]


def _spawn(installed: Installation, queue: str, count: int) -> "subprocess.Popen[str]":
    environment = {**installed.environment, "DJANGO_SETTINGS_MODULE": "msgsys_project.settings.ingest"}
    command = [sys.executable, "-m", "bench.filling", queue, str(count)]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _show(client: "redis.Redis", queue: str, count: int, sealing: "list[subprocess.Popen[str]]") -> None:
    with click.progressbar(length=count, label="sealing", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        while any(one.poll() is None for one in sealing):
            time.sleep(0.2)
            bar.update(client.llen(queue) - bar.pos)


def _main(queue: str, count: int) -> None:
    django.setup()
    now = time.time()
    first = new_id(now)
    push = _pusher(queue)
    entries: list[bytes] = []
    for entry in _entries(first, count, now):
        entries.append(entry)
        if len(entries) == PUSH_AT_ONCE:
            push(entries)
            entries = []
    push(entries)
    print(first)


def _entries(first: UUID, count: int, now: float) -> Iterator[bytes]:
    from ingest.sealer import Sealing  # it reads settings

    sealer = Sealing().current()
    for position in range(count):
        message = Message(
            id=following(first, position),
            client=sealer.identity.name,
            certificate=sealer.identity.serial_number,
            sender_number="+4915112345678",
            message_body=f"{position} {BODY}",
        )
        yield from (one.task for one in sealer.envelopes([message], now))


def _pusher(queue: str) -> Callable[[list[bytes]], None]:
    client = redis.Redis.from_url(settings.REDIS_URL)

    def push_ours(entries: list[bytes]) -> None:
        if entries:
            client.lpush(OUR_QUEUE, *entries)

    app = Celery(broker=settings.REDIS_URL)

    def push_stock(entries: list[bytes]) -> None:
        with app.producer_or_acquire() as producer:
            for entry in entries:
                arguments = json.loads(json.loads(entry)["body"])[0]
                app.send_task(STOCK_TASK, arguments, queue=STOCK_QUEUE, producer=producer, ignore_result=True)

    return push_stock if queue == STOCK_QUEUE else push_ours


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
