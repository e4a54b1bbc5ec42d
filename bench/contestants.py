"""Who runs: how each is started, and what it has not delivered yet."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from bench import STOCK_QUEUE
from tests.running import ROOT, Installation

OUR_QUEUE = "deliver"

# Threads of the stock worker, as many as our worker has connections to the registry; its prefetch is Celery's own.
STOCK_THREADS = 4
# Metrics ports of workers beside the first: an installation has but one.
_MORE_METRICS = 9110


@dataclass(frozen=True)
class Contestant:
    """`left` counts what is neither stored nor lost: entries that wait, and entries that workers hold."""

    name: str
    queue: str
    start: Callable[[Installation, int], "subprocess.Popen[bytes]"]
    left: Callable[["redis.Redis"], int]
    is_up: Callable[["redis.Redis", int, int], bool]


def _start_ours(installed: Installation, number: int) -> "subprocess.Popen[bytes]":
    if number:
        installed.settings["MSGSYS_WORKER_METRICS_PORT"] = str(_MORE_METRICS + number)
    try:
        return installed.spawn(f"worker {number}", sys.executable, str(ROOT / "manage.py"), "serve", "worker")
    finally:
        installed.settings.pop("MSGSYS_WORKER_METRICS_PORT", None)


def _left_of_ours(client: "redis.Redis") -> int:
    workers: Any = client.zrange("deliver.workers", 0, -1)
    return client.llen(OUR_QUEUE) + sum(client.hlen(f"deliver.held:{worker.decode()}") for worker in workers)


def _ours_are_up(client: "redis.Redis", workers: int, _filled: int) -> bool:
    return client.zcard("deliver.workers") >= workers


def _start_stock(installed: Installation, number: int) -> "subprocess.Popen[bytes]":
    options = ["--pool=threads", f"--concurrency={STOCK_THREADS}", f"--hostname=stock{number}@%h"]
    quiet = ["--without-gossip", "--without-mingle", "--loglevel=WARNING"]
    return installed.spawn(
        f"worker {number}", sys.executable, "-m", "celery", "-A", "bench.stock", "worker", *options, *quiet
    )


def _left_of_stock(client: "redis.Redis") -> int:
    return client.llen(STOCK_QUEUE) + client.hlen("unacked")


def _stock_is_up(client: "redis.Redis", _workers: int, filled: int) -> bool:
    return client.llen(STOCK_QUEUE) != filled or client.hlen("unacked") > 0


CONTESTANTS = {
    "ours": Contestant("ours", OUR_QUEUE, _start_ours, _left_of_ours, _ours_are_up),
    "stock": Contestant("stock", STOCK_QUEUE, _start_stock, _left_of_stock, _stock_is_up),
}
