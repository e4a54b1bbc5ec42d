"""An ingest that seals and signs, callers of the registry, and a look at what really lies in the table."""

import base64
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.conf import settings
from django.db import connection, connections, transaction
from django.test import Client

from certs_app import sealing_keys
from certs_app.admission import PEER
from certs_app.identity import Peer
from registry import blind_index, keyring
from registry.models import Message, Unindexed
from registry.storing import Arrival
from wire import envelope, ids, messages

SENDER = "+4915200000000"
BODY = "The quick brown fox"
NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def new_id(at: datetime | None = None) -> UUID:
    return ids.new_id((at or datetime.now(UTC)).timestamp())


def a_message(**changes: Any) -> messages.Message:
    given = {"id": new_id(), "client": "alice", "certificate": "a1", "sender_number": SENDER, "message_body": BODY}
    return messages.Message(**{**given, **changes})


def a_row(**changes: Any) -> Message:
    """Return an unsaved row."""
    given = a_message(**changes)
    return Message(
        uid=given.id,
        **{name: getattr(given, name) for name in ("client", "certificate", "sender_number", "message_body")},
        client_reference=given.client_reference,
        sent_at=given.sent_at,
        received_at=ids.received_at(given.id),
        stored_at=NOW,
        sender_index=blind_index.sender(given.sender_number),
        idempotency=bytes.fromhex(given.idempotency) if given.idempotency else None,
        accepted_by="",
    )


def an_arrival(**changes: Any) -> Arrival:
    return Arrival.of(a_message(**changes))


def keep(*rows: Message) -> None:
    """Store rows, and have them wait for the search index."""
    with transaction.atomic():
        Message.objects.bulk_create(rows)
        Unindexed.objects.note([row.uid for row in rows])


@pytest.fixture
def stored(db: None) -> Callable[..., Message]:
    """Store a message and read it back."""

    def store(**changes: Any) -> Message:
        one = a_row(**changes)
        one.save(force_insert=True)
        return Message.objects.get(pk=one.pk)

    return store


class Column:
    """One column of a row as bytes, past the field and the model."""

    def __init__(self, message: Message, name: str = "message_body") -> None:
        self.pk, self.name = message.pk, name

    def read(self) -> bytes:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {self.name} FROM registry_message WHERE id = %s", [self.pk])
            return bytes(cursor.fetchone()[0])

    def write(self, value: bytes) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE registry_message SET {self.name} = %s WHERE id = %s", [value, self.pk])


def whole_table() -> bytes:
    """Return every stored byte of every message."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM registry_message")
        values = [value for record in cursor.fetchall() for value in record]
    return b"|".join(value if isinstance(value, bytes) else str(value).encode() for value in values)


class Ingest:
    """Seals and signs envelopes with a certificate of the folder."""

    def __init__(self, folder: Path, stem: str) -> None:
        certificate = x509.load_pem_x509_certificates((folder / f"{stem}.crt").read_bytes())[0]
        self.signer = certificate.fingerprint(hashes.SHA256())
        self.key: Any = load_pem_private_key((folder / f"{stem}.key").read_bytes(), password=None)

    def seal(self, plain: bytes, *, at: datetime | None = None, key_id: int = 0, recipient: Any = None) -> bytes:
        primary, public_key = sealing_keys.load_public(settings.SEALING_PUBLIC_FILE)
        return envelope.seal(
            plain,
            envelope_id=new_id(at),
            key_id=key_id or primary,
            recipient=recipient or public_key,
            signer=self.signer,
            signing_key=self.key,
        )

    def envelope(self, *content: messages.Message, **options: Any) -> bytes:
        return self.seal(messages.encode(list(content or [a_message()])), **options)


@pytest.fixture
def ingest(people: Any) -> Ingest:
    people.issue("ingest", "ingest", usage="client")
    return Ingest(people.folder, "ingest-client")


@pytest.fixture
def call(people: Any, as_role: Callable[[str], None]) -> Callable[..., Any]:
    """Call the registry as `peer`, a worker unless said otherwise. A bug is raised here, not answered with a 500."""
    as_role("registry")
    worker = people.peer("worker", "worker")

    def go(path: str, body: Any = None, *, peer: Peer = worker, **options: Any) -> Any:
        if body is None:
            return Client().get(path, **{PEER: peer})
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        # Not post(): the test client would encode the bytes in whatever charset the test names.
        return Client().generic("POST", path, raw, **{"content_type": "application/json", PEER: peer, **options})

    return go


@pytest.fixture
def register(call: Callable[..., Any]) -> Callable[..., list[dict[str, Any]]]:
    """Post envelopes and return their outcomes."""

    def go(*blobs: bytes) -> list[dict[str, Any]]:
        answer = call("/register", {"envelopes": [base64.b64encode(blob).decode() for blob in blobs]})
        assert answer.status_code == 200, answer.content
        return answer.json()["results"]

    return go


@pytest.fixture
def shared_database(transactional_db: None, tmp_path: Path) -> Iterator[None]:
    """A database that threads can share: SQLite's test database lies in memory, so its content goes into a file."""
    if connection.vendor != "sqlite":
        yield
        return
    connection.ensure_connection()
    in_memory, options = connections["default"], connection.settings_dict
    name, options["NAME"] = options["NAME"], str(tmp_path / "threads.sqlite3")
    with sqlite3.connect(options["NAME"]) as file:
        in_memory.connection.backup(file)
    file.close()
    del connections["default"]
    yield
    connections["default"].close()
    options["NAME"] = name
    connections["default"] = in_memory


def all_at_once(work: Callable[[int], Any], threads: int = 4) -> list[Any]:
    """Run `work(number)` in threads that start together; return the results, or raise the first exception."""
    start = Barrier(threads)

    def run(number: int) -> Any:
        try:
            connection.ensure_connection()
            start.wait(20)
            return work(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(threads) as pool:
        return [future.result(60) for future in [pool.submit(run, number) for number in range(threads)]]


HOUR = timedelta(hours=1)


def until(probe: Callable[[], Any], within: float = 30) -> None:
    deadline = time.monotonic() + within
    while not probe():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


@pytest.fixture
def key_file(tmp_path: Path, settings: Any) -> Path:
    """A key file of this test's own, which every process and thread of it reads."""
    settings.KEY_FILE = tmp_path / "keys" / "keyring.json"
    keyring.create(settings.KEY_FILE)
    file: Path = settings.KEY_FILE
    return file


def manage(*arguments: str) -> dict[str, Any]:
    """Return what Popen needs to run a management command on this test's database and key file."""
    options = connection.settings_dict
    server = f"mysql://{options['USER']}:{options['PASSWORD']}@{options['HOST']}:{options['PORT']}/{options['NAME']}"
    own = {
        "DATABASE_URL": f"sqlite:///{options['NAME']}" if connection.vendor == "sqlite" else server,
        "DJANGO_SETTINGS_MODULE": "msgsys_project.settings.operator",
        "MSGSYS_HOME": str(settings.KEY_FILE.parent),
        "MSGSYS_KEY_FILE": str(settings.KEY_FILE),
        "MSGSYS_ENV_FILE": os.devnull,
        "PYTHONUTF8": "1",
    }
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), *arguments]
    return {"args": command, "env": {**os.environ, **own}, "cwd": settings.BASE_DIR}
