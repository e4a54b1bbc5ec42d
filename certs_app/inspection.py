"""What would make a connection fail, seen in the files alone: our pair, the CAs, their revocation lists.

Each function looks at one thing and says in one plain sentence what is wrong and what to do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.conf import settings

from certs_app.description import issued_by, usages
from certs_app.files import UnsafeFile, read_secret
from certs_app.identity import IdentityError, serial_hex, spiffe_identity
from certs_app.profiles import CLIENT
from certs_app.revocation import pem_blocks

FETCH = "on the CA's machine `manage.py publish_crl` makes new ones; elsewhere fetch /crl.pem from the registry"


@dataclass(frozen=True)
class Finding:
    """The outcome of one check. `ok` is None for what could not or need not be looked at."""

    check: str
    ok: bool | None
    sentence: str


class Wrong(Exception):
    """What a check found, as the sentence for a person."""


@dataclass(frozen=True)
class Pair:
    """Our own certificate, with what follows it in its file."""

    certificate: x509.Certificate
    rest: tuple[x509.Certificate, ...]
    name: str


@dataclass(frozen=True)
class Trust:
    """The CAs we go by, and their lists."""

    authorities: tuple[x509.Certificate, ...] = ()
    lists: tuple[x509.CertificateRevocationList, ...] = ()

    def revoked(self, certificate: x509.Certificate) -> x509.RevokedCertificate | None:
        """Return the entry of the newest list of its issuer that names it."""
        lists = sorted((one for one in self.lists if one.issuer == certificate.issuer), key=_made)
        return lists[-1].get_revoked_certificate_by_serial_number(certificate.serial_number) if lists else None


def read_authorities(file: Path) -> tuple[x509.Certificate, ...]:
    """Return the CAs of a file. Raises Wrong."""
    try:
        return tuple(x509.load_pem_x509_certificates(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise Wrong(f"The CA file {file} cannot be read ({error}): fetch ca.crt from whoever runs the CA.") from None


def read_lists(file: Path) -> tuple[x509.CertificateRevocationList, ...]:
    """Return the revocation lists of a file. Raises Wrong."""
    try:
        lists = tuple(x509.load_pem_x509_crl(block) for block in pem_blocks(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise Wrong(f"The revocation lists {file} cannot be read ({error}): {FETCH}.") from None
    if not lists:
        raise Wrong(f"There is no revocation list in {file}: {FETCH}.")
    return lists


def check_lists(trust: Trust, now: datetime) -> str:
    """Say until when the lists are good. Raises Wrong: one bad list makes every handshake fail."""
    standing = [authority for authority in trust.authorities if authority.not_valid_after_utc > now]
    ends = [_check_list_of(authority, trust, now) for authority in standing]
    if not ends:
        raise Wrong("Every CA of the CA file has expired: fetch a new ca.crt from whoever runs the CA.")
    return f"{len(trust.lists)} lists, signed by their CAs and good until {_time(min(ends))}."


def _check_list_of(authority: x509.Certificate, trust: Trust, now: datetime) -> datetime:
    name = authority.subject.rfc4514_string()
    own = sorted((one for one in trust.lists if one.issuer == authority.subject), key=_made)
    if not own:
        raise Wrong(f"There is no revocation list of {name}, and without it nobody's certificate counts: {FETCH}.")
    if not _signed(own[-1], authority):
        raise Wrong(f"The revocation list of {name} is forged or damaged (that CA did not sign it): {FETCH}.")
    if _made(own[-1]) > now:
        raise Wrong(f"The revocation list of {name} begins at {_time(_made(own[-1]))}, {_in_our_future(now)}")
    end = own[-1].next_update_utc
    if end is None or end <= now:
        ended = _time(end) if end else "an unknown time"
        raise Wrong(f"The revocation list of {name} expired at {ended}, so nobody's certificate counts: {FETCH}.")
    return end


def read_pair(certificate_file: Path, key_file: Path) -> Pair:
    """Return our certificate after its key was seen to fit. Raises Wrong."""
    try:
        certificate, *rest = x509.load_pem_x509_certificates(certificate_file.read_bytes())
    except (OSError, ValueError) as error:
        raise Wrong(f"Our certificate {certificate_file} cannot be read ({error}): give --cert or --as.") from None
    try:
        key = load_pem_private_key(read_secret(key_file), password=None)
    except UnsafeFile as error:
        raise Wrong(f"Our key cannot be used: {error}.") from None
    except TypeError:
        raise Wrong(
            f"Our key {key_file} has a passphrase, and services start without a person: store it without."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise Wrong(f"Our key {key_file} is no private key in PEM form.") from None
    if key.public_key() != certificate.public_key():
        raise Wrong(f"{key_file} is not the key of {certificate_file}: they come from two issuings; issue both again.")
    try:
        name = "/".join(spiffe_identity(certificate, settings.TRUST_DOMAIN))
    except (IdentityError, ValueError) as error:
        raise Wrong(f"Our certificate {certificate_file} is not one of this system: {error}.") from None
    return Pair(certificate, tuple(rest), name)


def check_usage(whose: str, certificate: x509.Certificate, usage: str, repair: str) -> None:
    """Raise Wrong unless the certificate is for this use."""
    found = usages(certificate)
    if usage not in found:
        what = " and ".join(found) or "any"
        raise Wrong(f"{whose} is a {what} certificate, and a {usage} certificate is needed: {repair}.")


def check_own(pair: Pair, trust: Trust, now: datetime) -> str:
    """Say how long our certificate is good. Raises Wrong."""
    certificate = pair.certificate
    check_validity("Our certificate", certificate, now, "renew_cert or issue_cert makes a new one")
    check_usage("Our certificate", certificate, CLIENT, "use NAME-client, or issue_cert --usage client")
    for one in _path(pair, trust):
        check_not_revoked("Our certificate" if one is certificate else "The CA of our certificate", one, trust)
    return f"{pair.name}, number {serial_hex(certificate.serial_number)}, {days_left(certificate, now)}."


def _path(pair: Pair, trust: Trust) -> Iterator[x509.Certificate]:
    """Yield our certificate and the CAs above it. Raises Wrong unless they lead to one of the CA file."""
    certificate: x509.Certificate | None = pair.certificate
    candidates = (*trust.authorities, *pair.rest)
    while certificate is not None:
        yield certificate
        if certificate.issuer == certificate.subject and certificate in trust.authorities:
            return
        above = issued_by(certificate, candidates)
        certificate = None if above == certificate else above
    raise Wrong(
        f"Our certificate was issued by another CA ({pair.certificate.issuer.rfc4514_string()}) than those of the CA "
        "file: get a certificate of this CA, or the CA file that belongs to ours."
    )


def check_validity(whose: str, certificate: x509.Certificate, now: datetime, repair: str) -> None:
    """Raise Wrong when a certificate has expired or has not begun."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if begin > now:
        raise Wrong(f"{whose} is not valid before {_time(begin)}, {_in_our_future(now)}")
    if end <= now:
        raise Wrong(f"{whose} expired at {_time(end)}: {repair}.")


def check_not_revoked(whose: str, certificate: x509.Certificate, trust: Trust) -> None:
    """Raise Wrong when a list names the certificate."""
    entry = trust.revoked(certificate)
    if entry is None:
        return
    try:
        why = f" ({entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value})"
    except x509.ExtensionNotFound:
        why = ""
    number = serial_hex(certificate.serial_number)
    raise Wrong(
        f"{whose} (number {number}) was revoked at {_time(entry.revocation_date_utc)}{why}: there is no way back, "
        "issue a new one with issue_cert."
    )


def days_left(certificate: x509.Certificate, now: datetime) -> str:
    return f"valid until {_time(certificate.not_valid_after_utc)} ({(certificate.not_valid_after_utc - now).days} days)"


def begins_in_future(certificates: list[x509.Certificate], trust: Trust, now: datetime) -> datetime | None:
    """Return the latest moment after `now` that some certificate or list was made at: a clock that is behind."""
    moments = [one.not_valid_before_utc for one in (*certificates, *trust.authorities)]
    moments += [_made(one) for one in trust.lists]
    return max((moment for moment in moments if moment > now), default=None)


def _in_our_future(now: datetime) -> str:
    return f"but this machine's clock says {_time(now)}: set the clock, or wait if the clock is right."


def _made(crl: x509.CertificateRevocationList) -> datetime:
    return crl.last_update_utc


def _signed(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # CA keys sign
    except (InvalidSignature, TypeError, UnsupportedAlgorithm):
        return False


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
