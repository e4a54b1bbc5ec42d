"""Is this certificate revoked? Asked at every request, of the list file that TLS also uses."""

import logging
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from certs_app.identity import Peer, serial_hex
from wire.problems import Problem

logger = logging.getLogger(__name__)

FileIdentity = tuple[int, ...]
# The number of each issuer's list, by the DER of the issuer's name.
Numbers = Mapping[bytes, int]
# A key and its certificate are replaced one after the other; this long, a pair that does not fit may be half of one.
SETTLING_SECONDS = 2.0


def file_identity(path: Path) -> FileIdentity:
    """Tell one version of a file from the next. Raises OSError.

    The change time is in it because a `chmod` that cures a refused key file changes nothing else.
    """
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


def is_settling(files: Iterable[FileIdentity]) -> bool:
    """Tell whether one of these files changed a moment ago."""
    newest = max(changed for identity in files for changed in identity[:2])
    # Of a change in the future (the clock was set back) nothing is known: it must not look recent for ever.
    return abs(time.time() - newest / 1e9) < SETTLING_SECONDS


@dataclass(frozen=True)
class OlderList(Exception):
    """A file holds an older list than the one that is held, or (`offered` is None) none at all."""

    issuer: str
    held: int
    offered: int | None

    def __str__(self) -> str:
        if self.offered is None:
            return f"the list of {self.issuer} is missing"
        return f"the list of {self.issuer} is older: number {self.offered}, held is {self.held}"


def check_not_older(offered: Numbers, held: Numbers, standing: Collection[bytes]) -> None:
    """Raise OlderList when a list goes back: putting back an old file must not bring back whom a newer one refuses.

    Of a CA that no longer stands nobody is judged by its list. Were others let go, their old lists would pass as new.
    """
    for issuer, number in held.items():
        if issuer in standing and offered.get(issuer, -1) < number:
            raise OlderList(x509.Name.from_bytes(issuer).rfc4514_string(), number, offered.get(issuer))


def is_newer(offered: Numbers, held: Numbers) -> bool:
    """Tell whether one of the offered lists is newer than what is held."""
    return any(number > held.get(issuer, -1) for issuer, number in offered.items())


def number_of(crl: x509.CertificateRevocationList) -> int:
    """Return the CRL number (RFC 5280 §5.2.3); 0 when there is none."""
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def numbers_in(file: Path) -> Numbers:
    """Return the numbers of the lists in a file. Raises OSError, ValueError."""
    return _numbers(_lists(file))


def _numbers(lists: Iterable[x509.CertificateRevocationList]) -> Numbers:
    return {crl.issuer.public_bytes(): number_of(crl) for crl in lists}


def standing_in(ca_file: Path, crl_file: Path) -> frozenset[bytes]:
    """Return the names of the CAs that stand: neither expired nor on a list. Raises OSError, ValueError."""
    return _standing(x509.load_pem_x509_certificates(ca_file.read_bytes()), _revoked(_lists(crl_file)))


def _standing(authorities: Iterable[x509.Certificate], revoked: Collection[tuple[bytes, str]]) -> frozenset[bytes]:
    return frozenset(
        one.subject.public_bytes()
        for one in authorities
        if one.not_valid_after_utc > datetime.now(UTC) and _entry(one) not in revoked
    )


def _revoked(lists: Iterable[x509.CertificateRevocationList]) -> frozenset[tuple[bytes, str]]:
    return frozenset(entry for crl in lists for entry in _entries(crl))


def _entry(certificate: x509.Certificate) -> tuple[bytes, str]:
    return certificate.issuer.public_bytes(), serial_hex(certificate.serial_number)


@dataclass(frozen=True)
class _Snapshot:
    """What the lists say. `standing` are the names of the CAs that neither expired nor are on a list themselves.

    `ends`, by issuer: when the first of the lists that judge its certificates is out of date, its own or its root's.
    """

    numbers: Numbers
    revoked: frozenset[tuple[bytes, str]]
    standing: frozenset[bytes]
    ends: Mapping[bytes, datetime]


class Revocations:
    """The revoked certificates, read again when the file changes. `ca_file` says whom a root's list means."""

    def __init__(self, file: Path, ca_file: Path) -> None:
        self._file = file
        self._ca_file = ca_file
        self._identity: tuple[FileIdentity | None, ...] = ()
        self._authorities: list[x509.Certificate] = []
        self._snapshot: _Snapshot | None = None
        self._lock = threading.Lock()

    def check(self, peer: Peer, now: datetime) -> None:
        """Raise Problem when `peer` may no longer be served; fail closed when that cannot be known."""
        snapshot = self._current()
        if snapshot is None or snapshot.ends.get(peer.issuer, _LONG_AGO) <= now:
            raise Problem(
                "revocation_unknown",
                "The revocation list is missing or out of date, so no certificate can be trusted. "
                "Tell the operator: `manage.py publish_crl` makes a new one.",
            )
        if (peer.issuer, peer.serial_number) in snapshot.revoked:
            raise Problem("certificate_revoked", f"Certificate {peer.serial_number} is revoked: ask for a new one.")
        if peer.issuer not in snapshot.standing:
            # Its own list cannot be relied on: whoever has its key has certificates that no list will ever name.
            raise Problem("certificate_revoked", "The CA that issued your certificate is revoked: ask for a new one.")
        if peer.not_after <= now:
            raise Problem("certificate_expired", f"Certificate {peer.serial_number} has expired: ask for a new one.")

    def _current(self) -> _Snapshot | None:
        # A look at a file costs about 2 µs, so every request looks: the next call after a revocation is refused.
        identity = _identity(self._file), _identity(self._ca_file)
        if identity != self._identity:
            with self._lock:
                self._read_once(identity)
        return self._snapshot

    def _read_once(self, identity: tuple[FileIdentity | None, ...]) -> None:
        if identity == self._identity:
            return
        try:
            self._read_authorities()
            read = _read(self._file, self._authorities)
            check_not_older(read.numbers, self._snapshot.numbers if self._snapshot else {}, read.standing)
            self._snapshot = read
        except FileNotFoundError:
            pass  # the last good one stays, and its nextUpdate still ends it
        except OSError:
            return
        except OlderList as older:
            fields = {"issuer": older.issuer, "held": older.held, "offered": older.offered}
            logger.error("an older revocation list was put in place, the newer one stays", extra=fields)
        except ValueError:
            # Keep the last good list: it still refuses whom it refused, and its nextUpdate still ends it.
            logger.exception("the revocation list cannot be read, the last good one stays")
        self._identity = identity

    def _read_authorities(self) -> None:
        """Read the CA certificates; those of before stay while the file cannot be read: a new list counts at once."""
        try:
            self._authorities = x509.load_pem_x509_certificates(self._ca_file.read_bytes())
        except (OSError, ValueError) as error:
            if not self._authorities:
                raise
            fields = {"reason": f"{type(error).__name__}: {error}"[:200]}
            logger.error("the CA certificates cannot be read, those of before stay", extra=fields)


def _identity(file: Path) -> FileIdentity | None:
    try:
        return file_identity(file)
    except OSError:
        return None


def _read(file: Path, authorities: Iterable[x509.Certificate]) -> _Snapshot:
    lists = _lists(file)
    if not lists:
        raise ValueError("the file holds no revocation list")
    revoked = _revoked(lists)
    own = {crl.issuer.public_bytes(): crl.next_update_utc or _LONG_AGO for crl in lists}
    parents = {one.subject.public_bytes(): one.issuer.public_bytes() for one in authorities}
    ends = {issuer: min(end, own.get(parents.get(issuer, issuer), _LONG_AGO)) for issuer, end in own.items()}
    return _Snapshot(_numbers(lists), revoked, _standing(authorities, revoked), ends)


_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def _entries(crl: x509.CertificateRevocationList) -> Iterator[tuple[bytes, str]]:
    issuer = crl.issuer.public_bytes()
    return ((issuer, serial_hex(entry.serial_number)) for entry in crl)


def _lists(file: Path) -> list[x509.CertificateRevocationList]:
    return [x509.load_pem_x509_crl(block) for block in pem_blocks(file.read_bytes())]


def pem_blocks(content: bytes) -> list[bytes]:
    """Split a file of lists. Raises ValueError when the last one is cut short: it may be the one that matters."""
    begin, end = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"
    *blocks, rest = content.split(end)
    if begin in rest:
        raise ValueError("the last revocation list is cut short")
    return [block + end + b"\n" for block in blocks]
