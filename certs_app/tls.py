"""TLS contexts: 1.3 only, no tickets, the revocation list checked at every handshake.

A context is built afresh for every new list and never changed afterwards: loading a newer list into a live context
can leave the older one in force, and resumed sessions skip the check altogether (so there are none).
"""

import logging
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from certs_app.files import read_secret
from certs_app.revocation import (
    FileIdentity,
    check_not_older,
    file_identity,
    is_settling,
    numbers_in,
    standing_in,
)

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
    context.sslobject_class = _Telling
    context.num_tickets = 0
    _harden(context, files)
    if client_certificates:
        _check_lists(context, files)
    context.verify_mode = ssl.CERT_REQUIRED if client_certificates else ssl.CERT_NONE
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Build a client's context: the server's certificate is verified, its revocation and host name included."""
    context = fetching_context(files)
    _check_lists(context, files)
    return context


def fetching_context(files: TlsFiles) -> ssl.SSLContext:
    """Build a client's context that does without revocation lists: for fetching them, when they are out of date,
    damaged or gone. What comes is signed itself.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, files)
    return context


def _harden(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    read_secret(files.key)  # refuses a key that others can read, before OpenSSL opens it by name
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.ca)
    context.verify_flags |= ssl.VERIFY_X509_STRICT


def _check_lists(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.load_verify_locations(files.crl)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


class _Telling(ssl.SSLObject):
    """A server's end of a connection: a failed handshake's error has the DER of what was shown, `shown_certificate`."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            error.shown_certificate = self._shown_certificate()  # type: ignore[attr-defined]  # errors take notes
            raise

    def _shown_certificate(self) -> bytes:
        """Return the certificate that was looked at; b"" when there was none, or none can be had.

        "Verified" is OpenSSL's word for the chain it built, however the verification ended; the unverified chain is
        already gone by then. Public from Python 3.13.
        """
        try:
            if sys.version_info >= (3, 13):
                chain = self.get_verified_chain()
            else:
                connection = cast(Any, self)._sslobj
                chain = [one.public_bytes(_DER) for one in connection.get_verified_chain() or ()]
            return chain[0] if chain else b""
        except Exception:  # private parts may change: then the log lacks a serial number, and nothing else breaks
            return b""


# _ssl.ENCODING_DER
_DER = 2


class Reloading:
    """The newest context of its files: rebuilt when a file changes; a bad file leaves the last good one in place."""

    def __init__(self, files: TlsFiles, build: Callable[[TlsFiles], ssl.SSLContext]) -> None:
        self._files = files
        self._build = build
        self._lock = threading.Lock()
        self._identity = files.identity()
        self._context = build(files)
        self._numbers = numbers_in(files.crl)
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
        try:
            self._take(identity)
        except Exception as error:
            if is_settling(identity):
                # One half of a pair, most likely: the other half comes in a moment. Not remembered, so tried again.
                return
            self.failures += 1
            reason = f"{type(error).__name__}: {error}"[:200]
            logger.exception("new TLS files cannot be used, the last good ones stay", extra={"reason": reason})
        # Remembered even when it fails: a bad file is tried once, not at every handshake.
        self._identity = identity

    def _take(self, identity: tuple[FileIdentity, ...]) -> None:
        """Make a context of the files as they are. Raises whatever is wrong with them."""
        context = self._build(self._files)
        numbers = numbers_in(self._files.crl)
        check_not_older(numbers, self._numbers, standing_in(self._files.ca, self._files.crl))
        if self._files.identity() != identity:
            raise OSError("a file changed while it was read")
        self._context, self._numbers = context, numbers


def server_contexts(files: TlsFiles, *, client_certificates: bool) -> Reloading:
    """Return the contexts of a server: the newest one for each connection."""
    return Reloading(files, lambda files: server_context(files, client_certificates=client_certificates))
