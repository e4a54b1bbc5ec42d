"""Run the benchmark: `make bench ARGS="--quick"`. docs/performance.md says what is measured. Linux only."""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import django
import redis
from django.conf import settings

from bench import figures
from bench.contestants import CONTESTANTS
from bench.outage import Course, Round
from tests import mariadb
from tests.running import Installation, start_valkey

QUICK = {"messages": 2000, "stock_messages": 500, "rounds": 1, "outage": 3.0, "retry": 3}
# The embedded Valkey's own limit is made for a queue of ordinary length; the harness itself never reaches this one.
MOST_MEMORY = "4gb"


@dataclass(frozen=True)
class Heat:
    """One contestant's part of each round."""

    contestant: str
    messages: int
    workers: int = 1


def main(arguments: Sequence[str]) -> None:
    options = _parse(arguments)
    with _folder() as folder, _course(folder, options) as course:
        rounds = list(_run(course, options))
    measured = figures.document(rounds, vars(options) | {"json": None})
    print(figures.table(measured))
    if measured["ours_to_stock"]:
        print("ours / stock: " + ", ".join(f"{name} {ratio}" for name, ratio in measured["ours_to_stock"].items()))
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench", description="An outage and the drain after it, ours beside stock Celery.")
    add = parser.add_argument
    add("--messages", type=int, default=100_000, help="backlog of our worker (%(default)s)")
    add("--stock-messages", type=int, default=5000, help="backlog of the stock worker, which is slow (%(default)s)")
    add("--rounds", type=int, default=3, help="rounds of each, alternating (%(default)s)")
    add("--outage", type=float, default=20, help="seconds the registry is away; 0: it is there first (%(default)s)")
    add("--retry", type=int, default=30, help="seconds between tries, for both (%(default)s)")
    add("--workers", type=_numbers, default=[1], help="rounds of ours with so many workers, e.g. 1,2,4 (1)")
    add("--only", choices=CONTESTANTS, help="leave the other one out")
    add("--mariadb", action="store_true", help="MariaDB instead of SQLite")
    add("--json", type=Path, metavar="FILE", help="write every figure of every round there")
    add("--quick", action="store_true", help="a few seconds, to see that it runs: " + ", ".join(QUICK))
    if "--quick" in arguments:
        parser.set_defaults(**QUICK)
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _heats(options: argparse.Namespace) -> list[Heat]:
    ours = [Heat("ours", options.messages, workers) for workers in options.workers]
    heats = [*ours, Heat("stock", options.stock_messages)]
    return [heat for heat in heats if options.only in (None, heat.contestant)]


def _run(course: Course, options: argparse.Namespace) -> Iterator[Round]:
    for number in range(1, options.rounds + 1):
        for heat in _heats(options):
            contestant = CONTESTANTS[heat.contestant]
            done = course.run(contestant, heat.messages, outage=options.outage, workers=heat.workers)
            print(f"round {number}, {_line(done)}", file=sys.stderr, flush=True)
            yield done


def _line(done: Round) -> str:
    drain = done.drain
    return (
        f"{done.contestant} x{done.workers}: {done.messages} messages, {drain.messages_per_second:.0f}/s, "
        f"CPU per message: worker {drain.worker_us:.0f} µs, registry {drain.registry_us:.0f} µs"
    )


@contextlib.contextmanager
def _course(folder: Path, options: argparse.Namespace) -> Iterator[Course]:
    """Prepare a home as `up` does, then leave only Valkey running."""
    with contextlib.ExitStack() as ending:
        own = {"MSGSYS_RETRY_SECONDS": str(options.retry)}
        if options.mariadb:
            own["DATABASE_URL"] = _database(folder, ending)
        installed = Installation(folder / "home", own)
        ending.callback(installed.stop_all)
        installed.up("--no-demo")
        installed.stop("up")
        start_valkey(installed)
        yield Course(installed, _connect(installed))


def _database(folder: Path, ending: contextlib.ExitStack) -> str:
    (folder / "mariadb").mkdir()
    server = mariadb.start(folder / "mariadb")
    ending.callback(server.stop)
    return server.url


def _connect(installed: Installation) -> "redis.Redis":
    """Become the operator of this installation: its database and its queue."""
    os.environ.update(installed.environment, DJANGO_SETTINGS_MODULE="msgsys_project.settings.operator")
    django.setup()
    client: redis.Redis = redis.Redis.from_url(settings.REDIS_URL)
    client.config_set("maxmemory", MOST_MEMORY)
    return client


if __name__ == "__main__":
    main(sys.argv[1:])
