"""An ingest with its ledger, a real Valkey and a registry, joined where the network would be.

What the tests do to them is real: rows are deleted, entries are taken out of the queue, files are cut off.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.test import Client

from certs_app.admission import PEER
from certs_app.identity import Peer
from ingest import balance, ledger
from ingest.books import Books
from ingest.registry_client import RegistryAway, RegistryClient
from ingest.tests.conftest import Call, Valkey
from ingest.tests.conftest import _valkey_server as _valkey_server
from ingest.tests.conftest import accept_path as accept_path
from ingest.tests.conftest import drf_view as drf_view
from ingest.tests.conftest import ingest_settings as ingest_settings
from ingest.tests.conftest import valkey as valkey
from ingest.tests.malformed import but

MINUTES = timedelta(minutes=1)


class JoinedRegistry(RegistryClient):
    """The registry client, with Django's own test client in place of the network."""

    def __init__(self, peer: Peer, become: Callable[[str], None]) -> None:
        self.peer = peer
        self.away = False
        self.calls: list[dict[str, Any]] = []
        # What happens elsewhere before the registry answers.
        self.meanwhile: Callable[[dict[str, Any]], object] = bool
        self._become = become

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, dict[str, Any], None]:
        if self.away:
            raise RegistryAway("the registry is away")
        self._become("registry")
        self.calls.append(json.loads(body or b"{}"))
        self.meanwhile(self.calls[-1])
        answer = Client().generic(method, path, body or b"", content_type="application/json", **{PEER: self.peer})
        return answer.status_code, answer.json(), None


@dataclass
class Home:
    """One ingest and its part of the world."""

    folder: Path
    registry: JoinedRegistry
    worker: JoinedRegistry
    valkey: Valkey
    people: Any
    go: Callable[..., Any]
    settings: Any
    later: timedelta = field(default=2 * MINUTES)
    # Seconds between passes. Far, so that no pass rests because a busy machine was slow at the one before.
    apart: float = 3600.0
    _slept: float = 0.0
    _sheet: balance.BalanceSheet | None = None

    def submit(
        self, number: int = 1, *, client: str = "alice", key: str | None = None, body: str = "Hello"
    ) -> list[str]:
        """Submit messages, each in a request and an envelope of its own; return their ids."""
        self._live()
        headers = (("Idempotency-Key", key),) if key else ()
        answers = [
            self.go([Call(body=but(message_body=body), headers=headers)], self.people.peer(client))[0]
            for _ in range(number)
        ]
        assert {answer.status for answer in answers} == {202}
        return [answer.json()["id"] for answer in answers]

    def submit_batch(self, number: int, *, client: str = "alice", key: str | None = None) -> list[str]:
        self._live()
        headers = (("Idempotency-Key", key),) if key else ()
        body = {"messages": [but(message_body=str(n)) for n in range(number)]}
        (answer,) = self.go([Call("/submit/batch", body=body, headers=headers)], self.people.peer(client))
        return [result["id"] for result in answer.json()["results"]]

    def _live(self) -> None:
        """Be the one whose home this process works in."""
        self.settings.LEDGER_DIR = self.folder
        ledger.ledger.cache_clear()

    def deliver(self, most: int = -1) -> None:
        """Do what a worker does, with the oldest `most` entries of the queue."""
        with self.valkey.client as client:
            while most and (entry := client.rpop("deliver")):
                (_, sealed), _, _ = json.loads(json.loads(entry)["body"])
                assert self.worker.register([sealed])[0].outcome in ("stored", "duplicate")
                most -= 1

    @property
    def sheet(self) -> balance.BalanceSheet:
        if self._sheet is None:
            books = Books(self.folder, self.folder / "balance.sqlite3")
            self._sheet = balance.BalanceSheet(books, self.registry, self.clock)
        return self._sheet

    def restart(self) -> None:
        """End the process that compares; the next pass begins anew with what is on the disk."""
        self.sheet.books.close()
        self._sheet = None

    def balance(self, times: int = 1) -> balance.Report:
        """Run a pass, at a time when everything submitted so far is to be compared."""
        for _ in range(times):
            self._slept += self.apart
            report = self.sheet.run(datetime.now(UTC) + self.later)
        return report

    def clock(self) -> float:
        """Tell the time as if the passes were as far apart as they are in operation."""
        return time.monotonic() + self._slept

    @property
    def missing(self) -> set[str]:
        return {str(one.id) for one in self.sheet.books.missing()}


@pytest.fixture
def make_home(
    people: Any, valkey: Valkey, accept_path: Any, as_role: Callable[[str], None], settings: Any, tmp_path: Path
) -> Iterator[Callable[[str], Home]]:
    """Make an ingest of this name, with a ledger of its own."""
    made: list[Home] = []
    worker = JoinedRegistry(people.peer("worker", "worker"), as_role)

    def make(name: str) -> Home:
        if name != "ingest":
            people.issue(name, "ingest", usage="client")
        registry = JoinedRegistry(people.peer(name, "ingest"), as_role)

        def go(calls: list[Call], peer: Peer) -> Any:
            stem = people.folder / f"{name}-client"
            pair = {"certificate": stem.with_suffix(".crt"), "key": stem.with_suffix(".key")}
            settings.CLIENT_CERTIFICATE = pair
            return accept_path(calls, peer)

        made.append(Home(tmp_path / f"ledger of {name}", registry, worker, valkey, people, go, settings))
        return made[-1]

    yield make
    for home in made:
        home.restart()
    ledger.ledger.cache_clear()


@pytest.fixture
def home(make_home: Callable[[str], Home]) -> Home:
    return make_home("ingest")


def as_ids(*texts: str) -> list[UUID]:
    return [UUID(text) for text in texts]
