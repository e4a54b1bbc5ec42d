"""Measure searches over many messages: `python -m bench.searching --messages 1000000 --home DIR`. Linux, MariaDB.

Each question is asked through portal.queries.MessageQuery, the one way that the pages and the API have.
"""

import argparse
import functools
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django

from tests import mariadb

Ask = Callable[[], object]
WARM_UP, TIMES = 5, 50


def main(arguments: Sequence[str]) -> None:
    options = _parse(arguments)
    with _home(options.home) as home:
        (home / "mariadb").mkdir(exist_ok=True)
        server = Restartable(home / "mariadb", options.buffer_pool)
        try:
            _set_up(home, server.url)
            from bench import search_table

            search_table.fill(options.messages)
            print(search_table.describe(), file=sys.stderr, flush=True)
            figures = _measure(options, server)
        finally:
            server.stop()
    print(_table(figures["questions"]))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


class Restartable:
    """A MariaDB that can be started anew with nothing of its data in memory."""

    def __init__(self, folder: Path, buffer_pool: str) -> None:
        self._folder = folder
        # Or it would read at its start what it held at its end.
        self._options = (f"--innodb-buffer-pool-size={buffer_pool}", "--innodb-buffer-pool-load-at-startup=OFF")
        self._server = mariadb.start(folder, *self._options)

    @property
    def url(self) -> str:
        return self._server.url

    def stop(self) -> None:
        self._server.stop()

    def restart_cold(self) -> None:
        from django.db import connection

        connection.close()
        self.stop()
        for file in (self._folder / "data").rglob("*"):
            if file.is_file():
                _forget(file)
        self._server = mariadb.start(self._folder, *self._options)
        connection.settings_dict["PORT"] = self._server.port
        connection.ensure_connection()


def _forget(file: Path) -> None:
    """Have the kernel drop what it keeps of a file in memory."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench.searching", description="Searches over many encrypted messages.")
    add = parser.add_argument
    add("--messages", type=int, default=1_000_000, help="rows in the table (%(default)s)")
    add("--home", type=Path, help="keep the database there, and take up what is there already")
    add("--buffer-pool", default="2G", help="MariaDB's innodb_buffer_pool_size (%(default)s)")
    add("--plain-tokens", action="store_true", help="make the plain token table as well, which takes long")
    add("--cold", type=int, default=5, metavar="TIMES", help="starts of MariaDB with nothing in memory (%(default)s)")
    add("--no-naive", action="store_true", help="leave the naive ways out")
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    return parser.parse_args(arguments)


@contextmanager
def _home(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _set_up(home: Path, database_url: str) -> None:
    os.environ |= {
        "MSGSYS_HOME": str(home),
        "DATABASE_URL": database_url,
        "DJANGO_SETTINGS_MODULE": "msgsys_project.settings.operator",
    }
    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    from registry import keyring

    if not settings.KEY_FILE.exists():
        keyring.create(settings.KEY_FILE)
    call_command("migrate", verbosity=0, skip_checks=True)


def _measure(options: argparse.Namespace, server: Restartable) -> dict[str, Any]:
    from bench import naive_search, search_table

    search_table.read_through()
    asked = _questions()
    questions = {name: _times(asks) for name, asks in asked.items()}
    naive = (
        {}
        if options.no_naive
        else {
            "COUNT(*) of the table": _times([naive_search.count] * 3, warm_up=0),
            "OFFSET to page 10,000": _times([lambda: naive_search.offset(10_000)] * 3, warm_up=0),
            "decrypt and scan for a rare word": _times([lambda: naive_search.scan(_words()[30_000])], warm_up=0),
        }
    )
    if options.plain_tokens:
        naive_search.make_token_table(lambda text: print(text, file=sys.stderr, flush=True))
        naive["plain token table, one word"] = _times(
            [functools.partial(naive_search.token_lookup, word) for word in _some(_words()[:2000])]
        )
    for name, cold in _cold(asked, server, options.cold).items():
        questions[name]["cold"] = cold
    return {
        "messages": options.messages,
        "bytes_per_message": {name: round(size, 1) for name, size in search_table.sizes().items()},
        "questions": questions | naive,
    }


def _times(asks: Sequence[Ask], warm_up: int = WARM_UP) -> dict[str, float]:
    """Return p50 and p95 in milliseconds."""
    for ask in asks[:warm_up]:
        ask()
    took = []
    for ask in asks:
        started = time.perf_counter()
        ask()
        took.append((time.perf_counter() - started) * 1000)
    took.sort()
    return {"p50": round(statistics.median(took), 2), "p95": round(took[int(len(took) * 0.95)], 2), "times": len(took)}


def _cold(asked: dict[str, list[Ask]], server: Restartable, rounds: int) -> dict[str, float]:
    """Return the median in ms of each question, asked once after each start; another one is the first each time."""
    took: dict[str, list[float]] = {name: [] for name in asked}
    names = list(asked)
    for one in range(rounds):
        server.restart_cold()
        shift = one * len(names) // rounds
        for name in names[shift:] + names[:shift]:
            started = time.perf_counter()
            asked[name][one % len(asked[name])]()
            took[name].append((time.perf_counter() - started) * 1000)
    return {name: round(statistics.median(some), 2) for name, some in took.items() if some}


def _words() -> list[str]:
    from bench.corpus import Corpus

    return Corpus(seed=1).words


def _some(values: Sequence[Any], count: int = TIMES) -> list[Any]:
    return random.Random(7).choices(values, k=count)  # noqa: S311  test data


def _questions() -> dict[str, list[Ask]]:
    from datetime import timedelta

    from bench import search_table
    from bench.corpus import number
    from portal import cursors
    from portal.queries import MessageQuery
    from portal.wording import Wording
    from registry.models import Message

    words = _words()
    frequent, middling, rare = words[:20], words[500:3000], words[20_000:40_000]

    def ask(**asked: Any) -> Ask:
        return lambda: MessageQuery(**asked).page()

    def of(*lists: Sequence[str]) -> list[Wording]:
        drawn = zip(*(_some(some) for some in lists), strict=True)
        return [Wording.of(" ".join(dict.fromkeys(several))) for several in drawn]

    def at_depth(pages: int) -> Ask:
        rows = Message.objects.newest_first()[pages * 50 : pages * 50 + 1]
        cursor = cursors.read(cursors.after(rows[0]))
        return ask(cursor=cursor)

    month = {
        "received_from": search_table.LAST - timedelta(days=120),
        "received_to": search_table.LAST - timedelta(days=90),
    }
    hour = {
        "received_from": search_table.LAST - timedelta(days=90, hours=1),
        "received_to": search_table.LAST - timedelta(days=90),
    }
    deep = [depth for depth in (1, 100, 10_000) if depth * 50 < Message.objects.count()]
    return {
        "no filter": [ask()] * TIMES,
        "sender, frequent": [ask(sender=number(one)) for one in _some(range(20))],
        "sender, rare": [ask(sender=number(one)) for one in _some(range(50_000, 150_000))],
        "last 4 digits": [ask(last4=number(one)[-4:]) for one in _some(range(1000))],
        "prefix of 6": [ask(prefix=number(one)[:6]) for one in _some(range(1000))],
        "one frequent word": [ask(words=one) for one in of(frequent)],
        "one middling word": [ask(words=one) for one in of(middling)],
        "one rare word": [ask(words=one) for one in of(rare)],
        "three words: frequent": [ask(words=one) for one in of(frequent, frequent, frequent)],
        "three words: mixed": [ask(words=one) for one in of(frequent, middling, frequent)],
        "a word nobody wrote": [ask(words=Wording.of(f"zz{one}zz")) for one in range(TIMES)],
        "word + 30 days + status": [ask(words=one, status="failed", **month) for one in of(frequent)],
        "frequent word + status of no row": [ask(words=one, status="delivered") for one in of(frequent)],
        "frequent word + client": [ask(words=one, client="erin") for one in of(frequent)],
        "middling word + one hour": [ask(words=one, **hour) for one in of(middling)],
        "status failed": [ask(status="failed")] * TIMES,
        "client": [ask(client="erin")] * TIMES,
        **{f"next page at depth {depth:,}": [at_depth(depth)] * TIMES for depth in deep},
    }


def _table(questions: dict[str, dict[str, float]]) -> str:
    lines = [f"{'':34} {'p50 ms':>10} {'p95 ms':>10} {'cold ms':>10}"]
    for name, one in questions.items():
        lines.append(f"{name:34} {one['p50']:>10.2f} {one['p95']:>10.2f} {one.get('cold', math.nan):>10.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
