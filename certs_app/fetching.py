"""Revocation lists from the registry, for every process that does not sit beside the CA.

What is fetched is believed only if our own CAs signed it, and only if it is newer. Everything else leaves the last good
lists where they are: on disk, across restarts, until their own nextUpdate ends them.
"""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from django.conf import settings

from certs_app import metrics
from certs_app.ca_client import CaError, RemoteCa
from certs_app.files import lock_beside, write_atomic
from certs_app.revocation import (
    FileIdentity,
    Numbers,
    OlderList,
    check_not_older,
    file_identity,
    is_newer,
    number_of,
    pem_blocks,
)

logger = logging.getLogger(__name__)

_SOON = timedelta(hours=24)
_LONG_AGO = datetime.fromtimestamp(0, UTC)

Lists = dict[x509.Name, x509.CertificateRevocationList]


class ListRefused(Exception):
    """What came is not a newer list of our CAs. The message says why."""


class FetchedLists:
    """The lists of a process that asks the registry for them, every `every` seconds."""

    def __init__(self) -> None:
        self.every = settings.CRL_FETCH_SECONDS
        self._ca = RemoteCa()
        self._tag = ""
        self._seen: tuple[FileIdentity | None, ...] = ()

    def refresh(self, now: datetime) -> None:
        """Look once. Never raises: the lists that are held go on."""
        try:
            outcome = self._fetch(now)
        except ListRefused as error:
            outcome = "refused"
            logger.error("a revocation list was refused, the last good one stays", extra={"reason": str(error)})
        except (CaError, OSError) as error:
            outcome = "failed"
            _tell(error, settings.CRL_FILE, now)
        metrics.CRL_FETCHES.labels(outcome).inc()
        observe(settings.CA_FILE, settings.CRL_FILE, now)

    repair = refresh

    def _fetch(self, now: datetime) -> str:
        # The tag speaks of the files as they were left here: of one that somebody put there since, nothing is known.
        tag = self._tag if self._seen == _files() else ""
        content, tag = self._ca.get("/crl.pem", tag)
        if content is None:
            return "unchanged"
        fetched = _parse(content)
        if set(fetched) - {authority.subject for authority in _authorities(settings.CA_FILE.read_bytes())}:
            add_authorities(self._ca.get("/ca.pem")[0] or b"", settings.CA_FILE, now)
        newer = accept(fetched, settings.CA_FILE, settings.CRL_FILE, now)
        self._tag, self._seen = tag, _files()
        return "newer" if newer else "unchanged"


def _tell(error: Exception, crl_file: Path, now: datetime) -> None:
    """Say that nothing came: a warning only when the lists that are held end soon. A registry may be away."""
    level = logging.INFO if ends(settings.CA_FILE, crl_file, now) - now > _SOON else logging.WARNING
    reason = f"{type(error).__name__}: {error}"[:200]
    logger.log(level, "no revocation list came from the registry", extra={"reason": reason})


def accept(fetched: Lists, ca_file: Path, crl_file: Path, now: datetime) -> bool:
    """Write the fetched lists if one of them is newer than what is held; tell whether. Raises ListRefused, OSError."""
    authorities = {authority.subject: authority for authority in _authorities(ca_file.read_bytes())}
    # A list of a CA we do not know says nothing about anybody we let in: a root that this node was not given yet, say.
    ours = {issuer: crl for issuer, crl in fetched.items() if issuer in authorities}
    for issuer, crl in ours.items():
        _check_signature(crl, authorities[issuer])
    standing = _standing(authorities.values(), ours, now)
    held = _held(crl_file)
    for issuer in standing & set(ours):
        # One that is held already changes nothing: a CA that can sign no more must not hold up the others.
        if issuer not in held or number_of(ours[issuer]) != number_of(held[issuer]):
            _check_dates(ours[issuer], now)
    if not _is_newer(ours, held, standing):
        return False
    # Whoever else writes here, the CA itself on one machine among them, must not come between look and write.
    with lock_beside(crl_file):
        newer = _is_newer(ours, _held(crl_file), standing)
        if newer:
            write_atomic(crl_file, b"".join(crl.public_bytes(Encoding.PEM) for crl in ours.values()))
    return newer


def _standing(authorities: Iterable[x509.Certificate], lists: Lists, now: datetime) -> set[x509.Name]:
    """Return the names of the CAs that neither expired nor are on a list themselves."""
    revoked = {(issuer, entry.serial_number) for issuer, crl in lists.items() for entry in crl}
    return {
        authority.subject
        for authority in authorities
        if authority.not_valid_after_utc > now and (authority.issuer, authority.serial_number) not in revoked
    }


def _is_newer(fetched: Lists, held: Lists, standing: set[x509.Name]) -> bool:
    """Tell whether one of the fetched lists has a higher number. Raises ListRefused when one has a lower one."""
    offered, known = _numbers(fetched), _numbers(held)
    try:
        check_not_older(offered, known, [issuer.public_bytes() for issuer in standing])
    except OlderList as error:
        raise ListRefused(str(error)) from None
    return is_newer(offered, known)


def _numbers(lists: Lists) -> Numbers:
    return {issuer.public_bytes(): number_of(crl) for issuer, crl in lists.items()}


def _check_signature(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> None:
    try:
        genuine = crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # CA keys are EC or RSA
    except (InvalidSignature, TypeError):
        genuine = False
    if not genuine:
        raise ListRefused(f"the list of {crl.issuer.rfc4514_string()} is not signed by it")


def _check_dates(crl: x509.CertificateRevocationList, now: datetime) -> None:
    name = crl.issuer.rfc4514_string()
    if crl.last_update_utc > now:
        # OpenSSL would refuse everybody by it.
        raise ListRefused(f"the list of {name} is from the future: this machine's clock is behind, or the CA's ahead")
    if crl.next_update_utc is None or crl.next_update_utc <= now:
        raise ListRefused(f"the list of {name} is out of date")


def add_authorities(content: bytes, ca_file: Path, now: datetime) -> None:
    """Add the issuing CAs that a root we trust has signed meanwhile. A new root is brought by the operator only."""
    known = _authorities(ca_file.read_bytes())
    roots = [authority for authority in known if authority.subject == authority.issuer]
    added = [
        authority
        for authority in _authorities(content)
        if authority not in known and authority.not_valid_after_utc > now and _is_below(authority, roots)
    ]
    if added:
        write_atomic(ca_file, b"".join(one.public_bytes(Encoding.PEM) for one in [*known, *added]))
        names = ", ".join(one.subject.rfc4514_string() for one in added)
        logger.info("new issuing CAs are trusted: a root of ours signed them", extra={"subjects": names})


def _is_below(authority: x509.Certificate, roots: list[x509.Certificate]) -> bool:
    try:
        if not authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except x509.ExtensionNotFound:
        return False
    return any(_signed_by(authority, root) for root in roots)


def _signed_by(authority: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        authority.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return authority != root


def observe(ca_file: Path, crl_file: Path, now: datetime) -> None:
    """Set the metric of when the lists in use are out of date."""
    metrics.CRL_NEXT_UPDATE.set(ends(ca_file, crl_file, now).timestamp())


def ends(ca_file: Path, crl_file: Path, now: datetime) -> datetime:
    """Return when the first list of a CA that stands is out of date; long ago when there are none."""
    held = _held(crl_file)
    try:
        standing = _standing(_authorities(ca_file.read_bytes()), held, now)
    except (OSError, ListRefused):
        return _LONG_AGO
    return min((held[issuer].next_update_utc or _LONG_AGO for issuer in standing & set(held)), default=_LONG_AGO)


def are_usable(ca_file: Path, crl_file: Path, now: datetime) -> bool:
    """Tell whether every CA that stands has a list in date: without one, its certificates are refused."""
    held = _held(crl_file)
    try:
        standing = _standing(_authorities(ca_file.read_bytes()), held, now)
    except (OSError, ListRefused):
        return False
    good = {issuer for issuer, crl in held.items() if crl.next_update_utc and crl.next_update_utc > now}
    return standing <= good


def _files() -> tuple[FileIdentity | None, ...]:
    return _identity(settings.CRL_FILE), _identity(settings.CA_FILE)


def _identity(file: Path) -> FileIdentity | None:
    try:
        return file_identity(file)
    except OSError:
        return None


def _held(crl_file: Path) -> Lists:
    try:
        return _parse(crl_file.read_bytes())
    except (OSError, ListRefused):
        # Gone or damaged: whatever our CAs sign is better.
        return {}


def _parse(content: bytes) -> Lists:
    try:
        lists = [x509.load_pem_x509_crl(block) for block in pem_blocks(content)]
    except ValueError:
        raise ListRefused("what came is no revocation list") from None
    if not lists:
        raise ListRefused("what came holds no revocation list")
    return {crl.issuer: crl for crl in lists}


def _authorities(content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise ListRefused("the CA certificates cannot be read") from None
