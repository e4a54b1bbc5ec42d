"""The registry, as ingest and the worker reach it: mutual TLS, kept-alive connections, answers judged once.

RegistryError
├── RegistryAway         no answer, or one that is not the registry's own: try again
└── RegistryRefusesUs    our certificate or role is not accepted: a configuration fault; keep everything, alarm
"""

import functools
import json
import ssl
import threading
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import urllib3
from django.conf import settings
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import HTTPError, ProtocolError, SSLError

from certs_app.identity import IdentityError, Peer
from certs_app.tls import Reloading, TlsFiles, client_context

CONNECTIONS = 16
# Seconds to wait for one of them to be free: while the registry hangs, whoever asks is told so soon.
POOL_TIMEOUT = 2

STORED, DUPLICATE, REJECTED = "stored", "duplicate", "rejected"


class RegistryError(Exception):
    """The registry gave no usable answer."""


class RegistryAway(RegistryError):
    """Temporary: whatever it is, it passes, and the message is kept."""


class RegistryRefusesUs(RegistryError):
    """A configuration fault on one side. Temporary too, once somebody repairs it."""


@dataclass(frozen=True)
class Outcome:
    """What the registry did with an envelope. Only `rejected` is permanent, and only the registry itself says so."""

    outcome: str
    code: str = ""


class _RegistryConnection(HTTPSConnection):
    """A connection that talks to nobody but a registry: any server of our CA has a valid host name."""

    def connect(self) -> None:
        super().connect()
        connection = self.sock
        assert isinstance(connection, ssl.SSLSocket)
        try:
            peer = Peer.from_der(connection.getpeercert(binary_form=True) or b"", settings.TRUST_DOMAIN)
        except IdentityError as error:
            self.close()
            raise SSLError(f"the server's certificate names no identity: {error}") from None
        if peer.role != "registry":
            self.close()
            raise SSLError(f"the server at this address has role {peer.role}, not registry")


class _RegistryPool(HTTPSConnectionPool):
    ConnectionCls = _RegistryConnection


class RegistryClient:
    """One per process; threads share its connections."""

    def __init__(self, files: TlsFiles) -> None:
        self._contexts = Reloading(files, client_context)
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._pool: urllib3.PoolManager | None = None

    def register(self, envelope: str) -> Outcome:
        """Post one envelope (base64). Raises RegistryError."""
        body = json.dumps({"envelopes": [envelope]}).encode()
        answer = self._json("POST", "/register", body)
        try:
            (result,) = answer["results"]
            outcome = Outcome(result["outcome"], result.get("code", ""))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise RegistryAway("the answer is not the registry's") from None
        if outcome.outcome not in (STORED, DUPLICATE, REJECTED):
            raise RegistryAway("the answer is not the registry's")
        return outcome

    def message(self, client: str, uid: UUID) -> dict[str, Any] | None:
        """Ask for a client's message; None when it has no such message. Raises RegistryError."""
        status, answer = self._exchange("GET", f"/clients/{client}/messages/{uid}", None)
        if status == 404 and answer.get("code") == "not_found":
            return None
        if status != 200:
            raise _judge(status, answer)
        return answer

    def _json(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        status, answer = self._exchange(method, path, body)
        if status != 200:
            raise _judge(status, answer)
        return answer

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, dict[str, Any]]:
        pool = self._current_pool()
        try:
            response = self._request(pool, method, path, body)
        except SSLError as error:
            raise RegistryRefusesUs(f"TLS: {_brief(error)}") from None
        except (HTTPError, OSError) as error:
            raise RegistryAway(_brief(error)) from None
        return response.status, _document(response.data)

    def _request(
        self, pool: urllib3.PoolManager, method: str, path: str, body: bytes | None
    ) -> urllib3.BaseHTTPResponse:
        url = settings.REGISTRY_URL.rstrip("/") + path
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            return pool.request(method, url, body=body, headers=headers, pool_timeout=POOL_TIMEOUT)
        except ProtocolError:
            # A kept-alive connection that the other side closed meanwhile: once more at once, on a fresh one.
            # Registering twice is harmless, so it does not matter how far the first try came.
            pool.clear()
            return pool.request(method, url, body=body, headers=headers, pool_timeout=POOL_TIMEOUT)

    def _current_pool(self) -> urllib3.PoolManager:
        with self._lock:
            context = self._contexts.current()
            if self._pool is None or context is not self._context:
                timeout = urllib3.Timeout(connect=5, read=settings.REGISTRY_TIMEOUT)
                self._pool = urllib3.PoolManager(
                    ssl_context=context, retries=False, timeout=timeout, maxsize=CONNECTIONS, block=True
                )
                self._pool.pool_classes_by_scheme = {"https": _RegistryPool}
                self._context = context
            return self._pool


def _judge(status: int, answer: dict[str, Any]) -> RegistryError:
    code = str(answer.get("code", ""))[:64]
    if status in (401, 403):
        return RegistryRefusesUs(f"HTTP {status} {code}")
    return RegistryAway(f"HTTP {status} {code}")


def _document(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _brief(error: Exception) -> str:
    # urllib3's own words name the host and the cause, never the body.
    return f"{type(error).__name__}: {error}"[:200]


@functools.cache
def registry() -> RegistryClient:
    """Return this process's client."""
    pair = settings.CLIENT_CERTIFICATE
    return RegistryClient(TlsFiles(pair["certificate"], pair["key"], settings.CA_FILE, settings.CRL_FILE))
