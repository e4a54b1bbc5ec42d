"""Is this certificate revoked? Asked at every request, of the list file that TLS also uses."""

import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from certs_app.identity import Peer, serial_hex
from wire.problems import Problem

logger = logging.getLogger(__name__)

FileIdentity = tuple[int, ...]


def file_identity(path: Path) -> FileIdentity:
    """Tell one version of a file from the next. Raises OSError.

    The change time is in it because a `chmod` that cures a refused key file changes nothing else.
    """
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


@dataclass(frozen=True)
class _Snapshot:
    issuers: frozenset[bytes]
    revoked: frozenset[tuple[bytes, str]]
    next_update: datetime


class Revocations:
    """The revoked certificates, read again when the file changes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._identity: FileIdentity | None = None
        self._snapshot: _Snapshot | None = None
        self._lock = threading.Lock()

    def check(self, peer: Peer, now: datetime) -> None:
        """Raise Problem when `peer` may no longer be served; fail closed when that cannot be known."""
        snapshot = self._current()
        if snapshot is None or snapshot.next_update <= now or peer.issuer not in snapshot.issuers:
            raise Problem(
                "revocation_unknown",
                "The revocation list is missing or out of date, so no certificate can be trusted. "
                "Tell the operator: `manage.py publish_crl` makes a new one.",
            )
        if (peer.issuer, peer.serial_number) in snapshot.revoked:
            raise Problem("certificate_revoked", f"Certificate {peer.serial_number} is revoked: ask for a new one.")
        if peer.not_after <= now:
            raise Problem("certificate_expired", f"Certificate {peer.serial_number} has expired: ask for a new one.")

    def _current(self) -> _Snapshot | None:
        # A look at the file costs about 2 µs, so every request looks: the next call after a revocation is refused.
        try:
            identity = file_identity(self._file)
        except OSError:
            return self._snapshot
        if identity != self._identity:
            with self._lock:
                self._read_once(identity)
        return self._snapshot

    def _read_once(self, identity: FileIdentity) -> None:
        if identity == self._identity:
            return
        try:
            self._snapshot = _read(self._file)
        except OSError:
            return
        except ValueError:
            # Keep the last good list: it still refuses whom it refused, and its nextUpdate still ends it.
            logger.exception("the revocation list cannot be read, the last good one stays")
        self._identity = identity


def _read(file: Path) -> _Snapshot:
    issuers: set[bytes] = set()
    revoked: set[tuple[bytes, str]] = set()
    next_updates: list[datetime] = []
    for block in pem_blocks(file.read_bytes()):
        crl = x509.load_pem_x509_crl(block)
        issuer = crl.issuer.public_bytes()
        issuers.add(issuer)
        revoked.update((issuer, serial_hex(entry.serial_number)) for entry in crl)
        next_updates.append(crl.next_update_utc or datetime.min.replace(tzinfo=UTC))
    if not next_updates:
        raise ValueError("the file holds no revocation list")
    return _Snapshot(frozenset(issuers), frozenset(revoked), min(next_updates))


def pem_blocks(content: bytes) -> list[bytes]:
    """Split a file of lists. Raises ValueError when the last one is cut short: it may be the one that matters."""
    begin, end = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"
    *blocks, rest = content.split(end)
    if begin in rest:
        raise ValueError("the last revocation list is cut short")
    return [block + end + b"\n" for block in blocks]
