"""The registry, as ingest and the worker reach it: mutual TLS, kept-alive connections, answers judged once.

RegistryError
├── RegistryAway         no answer, or one that is not the registry's own: try again
│   ├── RegistryChokes   the registry itself says that it cannot handle this very request: try it in smaller parts
│   └── RegistrySlow     it is there, and the exchange was not over in time: a smaller request may be
└── RegistryRefusesUs    our certificate or role is not accepted: a configuration fault; keep everything, alarm
"""

import base64
import functools
import json
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
import urllib3
from django.conf import settings
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError, SSLError

from certs_app.registry_connection import pool_manager
from certs_app.tls import Reloading, TlsFiles, client_context

CONNECTIONS = 16
# Seconds to wait for one of them to be free: while the registry hangs, whoever asks is told so soon.
POOL_TIMEOUT = 2

STORED, DUPLICATE, REJECTED = OUTCOMES = ("stored", "duplicate", "rejected")
# Answers by which the registry, in its own words, refuses one request as it is.
CHOKES = {400, 413, 422, 500}


class RegistryError(Exception):
    """The registry gave no usable answer."""


class RegistryAway(RegistryError):
    """Temporary: whatever it is, it passes, and the message is kept. `retry_after` (seconds) if it said when."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class RegistryChokes(RegistryAway):
    """Temporary, and perhaps the fault of one envelope among many."""


class RegistrySlow(RegistryAway):
    """Temporary, and perhaps the fault of a link that takes too long for so large a request."""


class RegistryRefusesUs(RegistryError):
    """A configuration fault on one side. Temporary too, once somebody repairs it."""


class Total(msgspec.Struct):
    """How many messages, and the digest of their ids in hex (wire.sums)."""

    count: int
    digest: str


class Balance(msgspec.Struct):
    """The answer of /balance: for each range, or only for the first ones, sums by client; and the ids not known.

    `elsewhere`: those of them that are stored, but as another ingest's.
    """

    ranges: list[dict[str, Total]]
    unknown: list[UUID]
    elsewhere: list[UUID] = []


@dataclass(frozen=True)
class Outcome:
    """What the registry did with an envelope. Only `rejected` is permanent, and only the registry itself says so."""

    outcome: str
    code: str = ""


class RegistryClient:
    """One per process; threads share its connections."""

    def __init__(self, files: TlsFiles) -> None:
        self._contexts = Reloading(files, client_context)
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._pool: urllib3.PoolManager | None = None

    def register(self, envelopes: Sequence[str]) -> list[Outcome]:
        """Post envelopes (base64); return what became of each, in their order. Raises RegistryError."""
        answer = self._json("POST", "/register", msgspec.json.encode({"envelopes": envelopes}))
        try:
            outcomes = [Outcome(result["outcome"], str(result.get("code", ""))[:64]) for result in answer["results"]]
        except (KeyError, TypeError, AttributeError):
            raise RegistryAway("the answer is not the registry's") from None
        answered = [result.get("id") for result in answer["results"]]
        if not _answers(envelopes, answered) or any(one.outcome not in OUTCOMES for one in outcomes):
            raise RegistryAway("the answer is not the registry's")
        return outcomes

    def message(self, client: str, uid: UUID) -> dict[str, Any] | None:
        """Ask for a client's message; None when it has no such message. Raises RegistryError."""
        status, answer, _ = self._exchange("GET", f"/clients/{client}/messages/{uid}", None)
        if status == 404 and answer.get("code") == "not_found":
            return None
        if status != 200:
            raise _judge(status, answer, None)
        return answer

    def report_dead_letters(self, report: dict[str, Any]) -> None:
        """Say what this queue holds of them, in place of what was reported before. Raises RegistryError."""
        self._json("POST", "/dead_letters", json.dumps(report).encode())

    def balance(self, **question: Any) -> Balance:
        """Ask what is stored of what this ingest accepted, and say how its queue is. Raises RegistryError."""
        answer = self._json("POST", "/balance", json.dumps(question).encode())
        try:
            return msgspec.convert(answer, Balance)
        except msgspec.ValidationError:
            raise RegistryAway("the answer is not the registry's") from None

    def _json(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        status, answer, retry_after = self._exchange(method, path, body)
        if status != 200:
            raise _judge(status, answer, retry_after)
        return answer

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, dict[str, Any], float | None]:
        pool = self._current_pool()
        try:
            response = self._request(pool, method, path, body)
        except SSLError as error:
            raise RegistryRefusesUs(f"TLS: {_brief(error)}") from None
        except (HTTPError, OSError) as error:
            raise (RegistrySlow if _timed_out(error) else RegistryAway)(_brief(error)) from None
        return response.status, _document(response.data), _seconds(response.headers.get("Retry-After"))

    def _request(
        self, pool: urllib3.PoolManager, method: str, path: str, body: bytes | None
    ) -> urllib3.BaseHTTPResponse:
        url = settings.REGISTRY_URL.rstrip("/") + path
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        options: dict[str, Any] = {"body": body, "headers": headers, "pool_timeout": POOL_TIMEOUT}
        # What nobody asked to be compressed is not: some kilobytes could become gigabytes.
        options["decode_content"] = False
        began = time.monotonic()
        try:
            return pool.request(method, url, **options)
        except (ProtocolError, SSLError) as error:
            if isinstance(error, SSLError) and not _broke_off(error):
                raise
            if time.monotonic() - began > settings.REGISTRY_TIMEOUT:
                raise
            # A kept-alive connection that the other side closed meanwhile: once more at once, on a fresh one.
            # Registering twice is harmless, so it does not matter how far the first try came.
            pool.clear()
            return pool.request(method, url, **options)

    def _current_pool(self) -> urllib3.PoolManager:
        with self._lock:
            context = self._contexts.current()
            if self._pool is None or context is not self._context:
                self._pool = pool_manager(context, maxsize=CONNECTIONS, block=True)
                self._context = context
            return self._pool


def _answers(envelopes: Sequence[str], ids: Sequence[Any]) -> bool:
    """Is each answer that of its envelope? Of what is no envelope, the registry knows no id."""
    if len(ids) != len(envelopes):
        return False
    return all(given is None or given == _envelope_id(one) for one, given in zip(envelopes, ids, strict=True))


def _envelope_id(one: str) -> str | None:
    try:
        return str(UUID(bytes=base64.b64decode(one[:32])[6:22]))
    except ValueError:
        return None


def _judge(status: int, answer: dict[str, Any], retry_after: float | None) -> RegistryError:
    code = str(answer.get("code", ""))[:64]
    if status in (401, 403):
        return RegistryRefusesUs(f"HTTP {status} {code}")
    if code and status in CHOKES:
        return RegistryChokes(f"HTTP {status} {code}")
    return RegistryAway(f"HTTP {status} {code}", retry_after if code or status == 429 else None)


def _seconds(value: str | None) -> float | None:
    # The other form, a date, is not the registry's.
    return float(value) if value and value.isascii() and value.isdigit() and len(value) < 6 else None


def _document(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _broke_off(error: SSLError) -> bool:
    """Was the connection cut without TLS' own farewell? A refusal of our certificate may look the same."""
    return bool(error.args) and isinstance(error.args[0], ssl.SSLEOFError)


def _timed_out(error: Exception) -> bool:
    """Was a connection there, and too slow? urllib3 has one word for the answer, and another one for the request."""
    return isinstance(error, ReadTimeoutError) or any(isinstance(cause, TimeoutError) for cause in error.args)


def _brief(error: Exception) -> str:
    # urllib3's own words name the host and the cause, never the body.
    return f"{type(error).__name__}: {error}"[:200]


@functools.cache
def registry() -> RegistryClient:
    """Return this process's client."""
    pair = settings.CLIENT_CERTIFICATE
    return RegistryClient(TlsFiles(pair["certificate"], pair["key"], settings.CA_FILE, settings.CRL_FILE))
