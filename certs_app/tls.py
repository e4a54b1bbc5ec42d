"""TLS contexts: 1.3 only, no tickets, the revocation list checked at every handshake.

A context is built afresh for every new list and never changed afterwards: loading a newer list into a live context
can leave the older one in force, and resumed sessions skip the check altogether (so there are none).
"""

import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from certs_app.files import read_secret
from certs_app.revocation import FileIdentity, file_identity

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TlsFiles:
    """What one end of a connection needs: its own pair, the CAs it trusts, and their revocation lists."""

    certificate: Path
    key: Path
    ca: Path
    crl: Path

    def identity(self) -> tuple[FileIdentity, ...]:
        return tuple(file_identity(path) for path in (self.certificate, self.key, self.ca, self.crl))


def server_context(files: TlsFiles, *, client_certificates: bool) -> ssl.SSLContext:
    """Build a server's context; with `client_certificates`, one is required and checked against the lists."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    _harden(context, files)
    if client_certificates:
        context.verify_mode = ssl.CERT_REQUIRED
    else:
        context.verify_mode = ssl.CERT_NONE
        # No certificate is asked for, so there is none to look up: the flags alone would refuse nobody, but say so.
        context.verify_flags &= ~ssl.VERIFY_CRL_CHECK_CHAIN
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Build a client's context: the server's certificate is verified, its revocation and host name included."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, files)
    return context


def _harden(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    read_secret(files.key)  # refuses a key that others can read, before OpenSSL opens it by name
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.ca)
    context.load_verify_locations(files.crl)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN | ssl.VERIFY_X509_STRICT


class Reloading:
    """The newest context of its files: rebuilt when a file changes; a bad file leaves the last good one in place."""

    def __init__(self, files: TlsFiles, build: Callable[[TlsFiles], ssl.SSLContext]) -> None:
        self._files = files
        self._build = build
        self._lock = threading.Lock()
        self._identity = files.identity()
        self._context = build(files)
        self.failures = 0

    def current(self) -> ssl.SSLContext:
        try:
            identity = self._files.identity()
        except OSError:
            return self._context
        if identity != self._identity:
            with self._lock:
                self._rebuild(identity)
        return self._context

    def _rebuild(self, identity: tuple[FileIdentity, ...]) -> None:
        if identity == self._identity:
            return
        # Remembered even when it fails: a bad file is tried once, not at every handshake.
        self._identity = identity
        try:
            self._context = self._build(self._files)
        except Exception as error:
            self.failures += 1
            logger.exception(
                "new TLS files cannot be used, the last good ones stay", extra={"reason": type(error).__name__}
            )


def listening_context(files: TlsFiles, *, client_certificates: bool) -> ssl.SSLContext:
    """Build the context a server listens with: each handshake is moved to the newest one.

    asyncio and uvicorn hold one context for good. The SNI callback (it fires without SNI, too) swaps in the current
    one; flags and tickets are those of this outer context, so it is hardened the same way.
    """

    def build(files: TlsFiles) -> ssl.SSLContext:
        return server_context(files, client_certificates=client_certificates)

    reloading = Reloading(files, build)

    def swap(connection: ssl.SSLSocket, _name: str | None, _outer: ssl.SSLContext) -> None:
        connection.context = reloading.current()

    outer = build(files)
    outer.sni_callback = swap  # type: ignore[assignment]  # typeshed names SSLSocket; asyncio passes an SSLObject
    return outer
