"""A service renews its own certificates while it runs: at two thirds of their life, without a restart.

The servers' and the clients' TLS contexts follow the files (certs_app.tls), so replacing the files is all there is to
do. Each attempt that fails is an error in the log and in the metrics, a third of the life before it matters.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from certs_app import metrics
from certs_app.ca_client import Ca
from certs_app.files import lock_beside
from certs_app.identity import serial_hex
from certs_app.pairs import finish_replacing, replace_pair

logger = logging.getLogger(__name__)

# Of the life, from its beginning. Many services that were started together do not come back together.
RENEW_AT = 2 / 3
JITTER = 1 / 20
_SOON = timedelta(seconds=1)
_LATE = timedelta(hours=1)
_TELL_AGAIN = timedelta(seconds=30)
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass
class OwnCertificate:
    """A pair of files that this process uses."""

    certificate: Path
    key: Path
    retry_at: datetime = field(default=_NEVER)
    # The serial number of one that the CA may not have been told of. After a start nobody knows: it is told again.
    untold: str = ""
    tell_at: datetime = field(default=_NEVER)
    known: bool = False

    @property
    def stem(self) -> str:
        return self.certificate.stem

    def load(self) -> x509.Certificate:
        """Read the certificate. Raises OSError, ValueError."""
        return x509.load_pem_x509_certificates(self.certificate.read_bytes())[0]


def keep(own: Sequence[OwnCertificate], ca: Ca, now: datetime) -> None:
    """Renew those that are due. Never raises: the next look tries again, a failed one after a while."""
    for one in own:
        try:
            certificate = one.load()
        except (OSError, ValueError) as error:
            logger.error("a certificate of this process cannot be read", extra=_reason(one, error))
            continue
        if not one.known:
            one.known, one.untold = True, serial_hex(certificate.serial_number)
        metrics.CERTIFICATE_NOT_AFTER.labels(one.stem).set(certificate.not_valid_after_utc.timestamp())
        if now >= max(renewal_time(certificate), one.retry_at):
            _renew(one, ca, now)
        if one.untold and now >= one.tell_at:
            _tell(one, ca, now)


def renewal_time(certificate: x509.Certificate) -> datetime:
    """Return when to renew: the same moment however often it is asked, another one for every certificate."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    share = (certificate.serial_number % 1000) / 1000
    return certificate.not_valid_before_utc + life * (RENEW_AT + JITTER * share)


def _renew(one: OwnCertificate, ca: Ca, now: datetime) -> None:
    try:
        with lock_beside(one.certificate):
            finish_replacing(one.certificate, one.key)
            certificate = one.load()
            if now < renewal_time(certificate):
                return  # another process of this service was faster
            successor = _replace(one, ca, certificate)
    except Exception as error:
        metrics.RENEWALS.labels(one.stem, "failed").inc()
        left = _left(one, now)
        one.retry_at = now + min(max(left / 20, _SOON), _LATE)
        fields = {**_reason(one, error), "seconds_left": int(left.total_seconds())}
        logger.error("a certificate could not be renewed", extra=fields)
        return
    metrics.RENEWALS.labels(one.stem, "renewed").inc()
    logger.info(
        "a certificate was renewed",
        extra={"certificate": one.stem, "serial_number": successor, "replaces": serial_hex(certificate.serial_number)},
    )


def _left(one: OwnCertificate, now: datetime) -> timedelta:
    """Return how long it is still valid; nothing when that cannot be read."""
    try:
        return max(one.load().not_valid_after_utc - now, timedelta())
    except (OSError, ValueError):
        return timedelta()


def _replace(one: OwnCertificate, ca: Ca, old: x509.Certificate) -> str:
    """Have a successor issued for a new key, put it in place and say so. Returns its serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = old.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(name)).sign(key, hashes.SHA256())
    chain = ca.renew(serial_hex(old.serial_number), csr.public_bytes(Encoding.PEM))
    new = x509.load_pem_x509_certificates(chain)[0]
    if new.public_key() != key.public_key():
        raise ValueError("the CA's answer is for another key")
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    replace_pair(one.certificate, one.key, chain, key_pem)
    one.untold = serial_hex(new.serial_number)
    return one.untold


def _tell(one: OwnCertificate, ca: Ca, now: datetime) -> None:
    """Tell the CA that the new one is in use: whoever opens a connection from now on sees it."""
    try:
        ca.in_use(one.untold)
    except Exception as error:
        one.tell_at = now + _TELL_AGAIN
        logger.info("the CA could not be told which certificate is in use", extra=_reason(one, error))
    else:
        one.untold = ""


def _reason(one: OwnCertificate, error: Exception) -> dict[str, str]:
    return {"certificate": one.stem, "reason": f"{type(error).__name__}: {error}"[:200]}
