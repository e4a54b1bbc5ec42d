"""POST /register on MariaDB beside raw multi-row INSERTs of the same rows. docs/performance.md says what is measured.

`python -m bench.registering --quick` shows that it runs. Linux only: it reads /proc.
"""

import argparse
import base64
import http.client
import json
import os
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import django
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.conf import settings
from django.db import connection

from bench.filling import BODY
from bench.process_usage import cpu_seconds
from tests import mariadb
from tests.running import Installation
from wire import envelope, ids, messages

BATCH = 100
RAW = "raw"
QUICK = {"messages": 1000, "rounds": 1, "connections": [1]}


@dataclass(frozen=True)
class Part:
    """One contestant's part of a round. CPU is in microseconds per message; `client_us` is the benchmark's own."""

    contestant: str
    connections: int
    messages_per_second: float
    client_us: float
    registry_us: float
    database_us: float


class NotAllStored(Exception):
    """The table does not hold what was sent, once."""


def main(arguments: Sequence[str]) -> None:
    options = _parse(arguments)
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        course = Course.prepare(folder, ending)
        rounds = [list(_round(course, options)) for _ in range(options.rounds)]
    measured: dict[str, Any] = {
        "summary": _summary(rounds),
        "rounds": [[asdict(part) for part in one] for one in rounds],
    }
    print(_table(measured["summary"]))
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench.registering", description="POST /register beside raw INSERTs, on MariaDB.")
    add = parser.add_argument
    add("--messages", type=int, default=20_000, help="messages of each part (%(default)s)")
    add("--rounds", type=int, default=5, help="rounds, the contestants in turns (%(default)s)")
    add("--connections", type=_numbers, default=[1, 4], help="batches that are sent at a time, e.g. 1,4 (1,4)")
    add("--json", type=Path, metavar="FILE", help="write every figure of every round there")
    add("--quick", action="store_true", help="a few seconds, to see that it runs")
    if "--quick" in arguments:
        parser.set_defaults(**QUICK)
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _round(course: "Course", options: argparse.Namespace) -> Iterator[Part]:
    for connections in options.connections:
        for per_envelope in (BATCH, 1):
            part = course.register(options.messages, per_envelope, connections)
            yield _told(part)
        yield _told(course.insert_again(connections))


def _told(part: Part) -> Part:
    print(f"{part.contestant} x{part.connections}: {part.messages_per_second:.0f}/s", file=sys.stderr, flush=True)
    return part


# -- what runs


@dataclass(frozen=True)
class Course:
    """A registry that serves, its MariaDB, and an ingest's keys to seal with."""

    installed: Installation
    database: mariadb.Server
    ingest: "Ingest"

    @classmethod
    def prepare(cls, folder: Path, ending: ExitStack) -> "Course":
        (folder / "mariadb").mkdir()
        database = mariadb.start(folder / "mariadb")
        ending.callback(database.stop)
        installed = Installation(folder / "home", {"DATABASE_URL": database.url})
        ending.callback(installed.stop_all)
        installed.home.mkdir(mode=0o700)
        _become_operator(installed)
        installed.serve("registry")
        course = cls(installed, database, Ingest.load())
        # Before anything counts: code is loaded, the tables are open.
        course.register(BATCH, 1, 1)
        return course

    def register(self, count: int, per_envelope: int, connections: int) -> Part:
        """Post `count` messages in requests of BATCH. Raises NotAllStored."""
        _empty()
        uids, bodies = self.ingest.requests(count, per_envelope)
        with ExitStack() as ending:
            posts = [self._poster(ending) for _ in range(connections)]
            part = self._measured(f"{per_envelope} in an envelope", count, posts, bodies)
        _check(uids)
        return part

    def insert_again(self, connections: int) -> Part:
        """Insert the rows of the last part by mysqlclient alone, BATCH a statement and a commit for each."""
        names, rows = _stored_rows()
        _empty()
        batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        with ExitStack() as ending:
            inserters = [_inserter(names, ending) for _ in range(connections)]
            part = self._measured(RAW, len(rows), inserters, batches)
        _check({UUID(bytes=row[names.index("uid")]) for row in rows}, waiting=False)
        return part

    def _poster(self, ending: ExitStack) -> Callable[[bytes], None]:
        pair = settings.CERTIFICATES_DIR / "worker.crt", settings.CERTIFICATES_DIR / "worker.key"
        context = ssl.create_default_context(cafile=str(settings.CA_FILE))
        context.load_cert_chain(*pair)
        port = 8000 + self.installed.offset
        client = http.client.HTTPSConnection("localhost", port, timeout=60, context=context)
        client.connect()
        ending.callback(client.close)

        def post(body: bytes) -> None:
            client.request("POST", "/register", body, {"Content-Type": "application/json"})
            answer = client.getresponse()
            if (said := answer.read()) and answer.status != 200:
                raise NotAllStored(f"HTTP {answer.status}: {said[:300]!r}")

        return post

    def _measured(
        self, contestant: str, count: int, workers: Sequence[Callable[[Any], None]], batches: Sequence[Any]
    ) -> Part:
        """Have each worker do every n-th batch, all at once."""
        before = self._cpu()
        started = time.perf_counter()
        with ThreadPoolExecutor(len(workers)) as pool:
            for done in [pool.submit(_each, work, batches[n :: len(workers)]) for n, work in enumerate(workers)]:
                done.result()
        seconds = time.perf_counter() - started
        used = [(after - then) * 1e6 / count for then, after in zip(before, self._cpu(), strict=True)]
        return Part(contestant, len(workers), count / seconds, *used)

    def _cpu(self) -> tuple[float, float, float]:
        registry = self.installed.processes["registry"].pid
        return time.process_time(), cpu_seconds(registry), cpu_seconds(self.database.process.pid)


def _each(work: Callable[[Any], None], batches: Sequence[Any]) -> None:
    for batch in batches:
        work(batch)


def _become_operator(installed: Installation) -> None:
    os.environ.update(installed.environment, DJANGO_SETTINGS_MODULE="msgsys_project.settings.operator")
    from deploy import secret_files

    # The secrets first: settings read them once.
    secret_files.make_missing(installed.home / "secrets")
    django.setup()
    from deploy import home  # it has models

    home.prepare(lambda said: None)


@dataclass(frozen=True)
class Ingest:
    """Seals and signs as ingest does."""

    signer: bytes
    signing_key: Any
    key_id: int
    recipient: Any

    @classmethod
    def load(cls) -> "Ingest":
        from certs_app import sealing_keys  # it reads settings

        folder = settings.CERTIFICATES_DIR
        certificate = x509.load_pem_x509_certificates((folder / "ingest-client.crt").read_bytes())[0]
        key = load_pem_private_key((folder / "ingest-client.key").read_bytes(), password=None)
        return cls(
            certificate.fingerprint(hashes.SHA256()), key, *sealing_keys.load_public(settings.SEALING_PUBLIC_FILE)
        )

    def requests(self, count: int, per_envelope: int) -> tuple[set[UUID], list[bytes]]:
        """Return the ids of `count` new messages, and the bodies of the requests that carry them."""
        first = ids.new_id(time.time())
        content = [self._message(ids.following(first, number), number) for number in range(count)]
        sealed = [self._seal(content[start : start + per_envelope]) for start in range(0, count, per_envelope)]
        size = BATCH // per_envelope
        bodies = [
            json.dumps({"envelopes": sealed[start : start + size]}).encode() for start in range(0, len(sealed), size)
        ]
        return {one.id for one in content}, bodies

    def _message(self, uid: UUID, number: int) -> messages.Message:
        return messages.Message(
            id=uid,
            client="bench",
            certificate="b1",
            sender_number=f"+49151{number:08}",
            message_body=f"{number} {BODY}",
        )

    def _seal(self, content: list[messages.Message]) -> str:
        blob = envelope.seal(
            messages.encode(content),
            envelope_id=ids.new_id(time.time()),
            key_id=self.key_id,
            recipient=self.recipient,
            signer=self.signer,
            signing_key=self.signing_key,
        )
        return base64.b64encode(blob).decode()


# -- the table


def _empty() -> None:
    """Leave nothing behind, rows to purge neither: every part begins alike."""
    with connection.cursor() as cursor:
        cursor.execute("SET FOREIGN_KEY_CHECKS = 0")
        for table in ("registry_message", "registry_unindexed"):
            cursor.execute(f"TRUNCATE TABLE {table}")
        cursor.execute("SET FOREIGN_KEY_CHECKS = 1")


def _stored_rows() -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the names of all columns but the number of the row, and the rows as mysqlclient gives them."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM registry_message ORDER BY id")
        names = [column[0] for column in cursor.description]
        assert names[0] == "id"
        return names[1:], [row[1:] for row in cursor.fetchall()]


def _inserter(names: Sequence[str], ending: ExitStack) -> Callable[[Sequence[Any]], None]:
    # By hand, Django's wrappers around it left out.
    database: Any = ending.enter_context(closing(connection.get_new_connection(connection.get_connection_params())))
    slots = ", ".join(["%s"] * len(names))
    statement = f"INSERT INTO registry_message ({', '.join(names)}) VALUES ({slots})"  # noqa: S608  names of columns

    def insert(rows: Sequence[Any]) -> None:
        cursor = database.cursor()
        cursor.executemany(statement, rows)
        database.commit()

    return insert


def _check(uids: set[UUID], *, waiting: bool = True) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT uid FROM registry_message")
        stored = [UUID(bytes=uid) for (uid,) in cursor.fetchall()]
        cursor.execute("SELECT COUNT(*) FROM registry_unindexed")
        (unindexed,) = cursor.fetchone()
    if len(stored) != len(uids) or set(stored) != uids or unindexed != (len(uids) if waiting else 0):
        raise NotAllStored(f"{len(uids)} were sent, {len(stored)} are stored, {unindexed} wait for the index")


# -- the figures


def _summary(rounds: Sequence[Sequence[Part]]) -> list[dict[str, Any]]:
    """Medians of all rounds; `of_raw` is the median of each round's own ratio."""
    return [_line([one[place] for one in rounds], rounds) for place in range(len(rounds[0]))]


def _line(parts: Sequence[Part], rounds: Sequence[Sequence[Part]]) -> dict[str, Any]:
    first = parts[0]
    raws = [next(one for one in whole if _is_raw_beside(one, first)) for whole in rounds]
    rates = sorted(part.messages_per_second for part in parts)
    return {
        "contestant": first.contestant,
        "connections": first.connections,
        "messages_per_second": [rates[0], median(rates), rates[-1]],
        "of_raw": median(
            part.messages_per_second / raw.messages_per_second for part, raw in zip(parts, raws, strict=True)
        ),
        "client_us": median(part.client_us for part in parts),
        "registry_us": median(part.registry_us for part in parts),
        "database_us": median(part.database_us for part in parts),
    }


def _is_raw_beside(one: Part, other: Part) -> bool:
    return one.contestant == RAW and one.connections == other.connections


def _table(summary: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| | at a time | messages/s | of raw | client µs | registry µs | MariaDB µs |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in summary:
        low, middle, high = one["messages_per_second"]
        lines.append(
            f"| {one['contestant']} | {one['connections']} | {middle:,.0f} ({low:,.0f} to {high:,.0f}) "
            f"| {one['of_raw']:.0%} | {one['client_us']:.0f} | {one['registry_us']:.0f} | {one['database_us']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
