"""HTTPS to the registry and to nobody else: any server of our CA has a valid host name, only one role will do.

An exchange is bounded as a whole, in time and in size: an answer that trickles, or never ends, is no answer.
"""

import ssl
import time
from typing import Any

import urllib3
from django.conf import settings
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import SSLError

from certs_app.identity import IdentityError, Peer

# An answer of the registry has some megabytes at most.
MAX_ANSWER_BYTES = 64 << 20


class _BoundedSocket(ssl.SSLSocket):
    """Waits for no single byte beyond the end of the exchange, and takes no more than one answer may have.

    http.client and urllib3 bound each read by itself, and go through these methods for all of them.
    """

    _until = float("inf")
    _wait = 0.0
    _room = MAX_ANSWER_BYTES

    def begin(self, wait: float) -> None:
        """Begin an exchange: `wait` seconds for each read or write, and twice that for all of them."""
        self._until, self._wait, self._room = time.monotonic() + 2 * wait, wait, MAX_ANSWER_BYTES

    def send(self, *args: Any, **options: Any) -> int:
        self._bound()
        return super().send(*args, **options)

    def recv_into(self, *args: Any, **options: Any) -> int:
        self._bound()
        # The connection is of no use any more: what is left of this answer would be read as the next one.
        if self._room <= 0:
            raise OSError("the answer is too large to be the registry's")
        received = super().recv_into(*args, **options)
        self._room -= received
        return received

    def _bound(self) -> None:
        if self._wait:
            left = self._until - time.monotonic()
            if left <= 0:
                raise TimeoutError("the exchange takes too long")
            self.settimeout(min(self._wait, left))


class _RegistryConnection(HTTPSConnection):
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

    def request(self, *args: Any, **options: Any) -> None:
        if isinstance(self.sock, _BoundedSocket):
            self.sock.begin(settings.REGISTRY_TIMEOUT)
        super().request(*args, **options)


class _RegistryPool(HTTPSConnectionPool):
    ConnectionCls = _RegistryConnection


def pool_manager(context: ssl.SSLContext, **options: Any) -> urllib3.PoolManager:
    """Return urllib3's pools with the registry as their only possible other end; it retries nothing by itself."""
    timeout = urllib3.Timeout(connect=5, read=settings.REGISTRY_TIMEOUT)
    context.sslsocket_class = _BoundedSocket
    pool = urllib3.PoolManager(ssl_context=context, retries=False, timeout=timeout, **options)
    pool.pool_classes_by_scheme = {"https": _RegistryPool}
    return pool
