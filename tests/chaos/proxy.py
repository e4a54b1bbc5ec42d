"""What stands between worker and registry: it passes bytes on, late or not at all, or answers in the registry's place.

It cannot look into TLS. What comes back after the client's second flight is an answer, though: servers here send no
session tickets. So an answer can be cut after the registry has committed. To answer itself, it hands connections to a
server of its own, with a certificate that the installation's CA has issued for the role registry.
"""

import asyncio
import base64
import contextlib
import json
import random
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wire import envelope

HOST = "127.0.0.1"
CHUNK = 64 * 1024
# Seconds that every piece is late, as on a long line: what is on its way can be lost there.
LATENCY = 0.06

# From (envelope ids of the request, dice) to a whole HTTP answer.
Answer = Callable[[list[str], random.Random], bytes]


@dataclass(frozen=True)
class Behaviour:
    """How connections are treated. `hits` of the proxy counts what it did to somebody."""

    name: str = "pass"
    # Seconds each piece is late, beyond the latency.
    delay: float = 0.0
    # Share of an answer that gets through before the connection is reset.
    cut: float | None = None
    answer: Answer | None = None


PASS = Behaviour()


@dataclass(eq=False)
class _Connection:
    """Both ends of one passed-on connection, and how far it came."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    server_spoke: bool = False
    asked: bool = False

    def reset(self) -> None:
        for writer in (self.client, self.server):
            with contextlib.suppress(OSError):
                # Linger for no time: a reset instead of an orderly end.
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()


@dataclass
class Proxy:
    """Runs in a thread of its own from `start` to `stop`."""

    port: int
    registry_port: int
    certificate: tuple[Path, Path]
    ca: str
    hits: int = 0
    _behaviour: Behaviour = PASS
    _dice: random.Random = field(default_factory=random.Random)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _connections: set[_Connection] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _ready: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _own_port: int = 0

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        assert self._thread is not None
        self._thread.join(10)

    def behave(self, behaviour: Behaviour, dice: random.Random | None = None, *, drop: bool = True) -> None:
        """Treat connections like this from now on; `drop` resets those that are open."""

        def change() -> None:
            self._behaviour = behaviour
            self._dice = dice or self._dice
            if drop:
                for connection in list(self._connections):
                    connection.reset()

        self._loop.call_soon_threadsafe(change)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._close())
            self._loop.close()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Transports close in the loop's next turn.
        await asyncio.sleep(0.05)

    async def _listen(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        context.num_tickets = 0
        context.load_cert_chain(*self.certificate)
        own = await asyncio.start_server(self._answer, HOST, 0, ssl=context)
        self._own_port = own.sockets[0].getsockname()[1]
        self._servers = [own, await asyncio.start_server(self._pass_on, HOST, self.port)]

    # -- passing on

    async def _pass_on(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        port = self._own_port if self._behaviour.answer else self.registry_port
        try:
            from_server, server = await asyncio.open_connection(HOST, port)
        except OSError:
            client.transport.abort()
            return
        connection = _Connection(client, server)
        self._connections.add(connection)
        try:
            await asyncio.gather(self._up(connection, reader), self._down(connection, from_server))
        except (OSError, ssl.SSLError):
            pass  # one end has gone: the other goes, too
        finally:
            self._connections.discard(connection)
            connection.reset()

    async def _up(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK):
            connection.asked = connection.asked or connection.server_spoke
            await self._late()
            connection.server.write(data)
            await connection.server.drain()
        connection.server.write_eof()

    async def _down(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK):
            connection.server_spoke = True
            await self._late()
            cut = self._behaviour.cut
            if cut is not None and connection.asked:
                self.hits += 1
                connection.client.write(data[: int(len(data) * cut)])
                await connection.client.drain()
                raise ConnectionResetError
            connection.client.write(data)
            await connection.client.drain()
        connection.client.write_eof()

    async def _late(self) -> None:
        delay = self._behaviour.delay
        self.hits += delay > 0
        await asyncio.sleep(LATENCY + delay)

    # -- answering

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                ids = _envelope_ids(await _request_body(reader))
                behaviour = self._behaviour
                if behaviour.answer is None:
                    return
                self.hits += 1
                writer.write(behaviour.answer(ids, self._dice))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client has gone, or the behaviour has changed
        finally:
            writer.transport.abort()


async def _request_body(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    _, _, after = head.partition("content-length:")
    return await reader.readexactly(int(after.split("\r\n")[0])) if after else b""


def _envelope_ids(body: bytes) -> list[str]:
    try:
        return [str(envelope.parse(base64.b64decode(one)).id) for one in json.loads(body)["envelopes"]]
    except (ValueError, KeyError, TypeError, envelope.EnvelopeError):
        return []


def http(status: str, body: bytes, kind: str = "application/json", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


HTML = b"<!doctype html><title>Welcome</title><h1>It works!</h1>"


def _all_stored(ids: list[str]) -> list[dict[str, str]]:
    return [{"id": uid, "outcome": "stored"} for uid in ids]


def error_500(ids: list[str], dice: random.Random) -> bytes:
    return http("500 Internal Server Error", b"<h1>Server Error (500)</h1>", "text/html")


def error_400(ids: list[str], dice: random.Random) -> bytes:
    return http("400 Bad Request", b"<h1>Bad Request</h1>", "text/html")


def error_403(ids: list[str], dice: random.Random) -> bytes:
    body = {"type": "about:blank", "title": "no", "status": 403, "code": "role_not_allowed", "detail": "no"}
    return http("403 Forbidden", json.dumps(body).encode(), "application/problem+json")


def busy_429(ids: list[str], dice: random.Random) -> bytes:
    return http("429 Too Many Requests", b"", "text/plain", Retry_After=str(dice.randint(1, 3)))


def html_200(ids: list[str], dice: random.Random) -> bytes:
    return http("200 OK", HTML, "text/html")


def truncated_json(ids: list[str], dice: random.Random) -> bytes:
    whole = json.dumps({"results": _all_stored(ids)}).encode()
    return http("200 OK", whole[: dice.randint(0, len(whole) - 1)])


def truncated_body(ids: list[str], dice: random.Random) -> bytes:
    whole = http("200 OK", json.dumps({"results": _all_stored(ids)}).encode())
    return whole[:-1]


def fewer_results(ids: list[str], dice: random.Random) -> bytes:
    return http("200 OK", json.dumps({"results": _all_stored(ids[1:])}).encode())


def more_results(ids: list[str], dice: random.Random) -> bytes:
    return http("200 OK", json.dumps({"results": _all_stored([*ids, *ids[:1]])}).encode())


GARBAGE: list[Answer] = [html_200, truncated_json, truncated_body, fewer_results, more_results]
