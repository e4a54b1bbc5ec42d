"""Why a handshake was refused: for the log and the metrics, since in TLS 1.3 the client itself hears little of it."""

import logging
import ssl
import time

from cryptography import x509

from certs_app import metrics
from certs_app.identity import serial_hex

logger = logging.getLogger(__name__)

# Everybody who can connect can be refused, and must not be able to fill the disk. The metric counts all.
LINES_PER_SECOND = 10
# A serial number has at most 20 octets (RFC 5280 §4.1.2.2); a stranger's certificate may hold anything.
_MAX_SERIAL_DIGITS = 40

OVERLOADED = "overloaded"
_TIMEOUT, _DISCONNECTED, _UNTRUSTED, _OTHER = "timeout", "disconnected", "untrusted", "other"

# X509_V_ERR_… (openssl/x509_vfy.h). Every other failed verification is "untrusted".
_BY_VERIFY_CODE = {
    3: "crl_missing",
    8: "crl_bad_signature",
    9: "not_yet_valid",
    10: "expired",
    11: "crl_not_yet_valid",
    12: "crl_expired",
    23: "revoked",
    26: "wrong_purpose",
    33: "crl_missing",
}
_BY_OPENSSL_REASON = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "UNSUPPORTED_PROTOCOL": "tls_version",
    "UNEXPECTED_EOF_WHILE_READING": _DISCONNECTED,
}
REASONS = frozenset(
    {*_BY_VERIFY_CODE.values(), *_BY_OPENSSL_REASON.values(), OVERLOADED, _TIMEOUT, _DISCONNECTED, _UNTRUSTED, _OTHER}
)
for _reason in REASONS:
    metrics.HANDSHAKES_REFUSED.labels(_reason)


def reason_of(error: Exception) -> str:
    """Return why the handshake failed that ended with `error`: one of REASONS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BY_VERIFY_CODE.get(error.verify_code, _UNTRUSTED)
    if isinstance(error, ssl.SSLError):
        return _BY_OPENSSL_REASON.get(error.reason or "", _OTHER)
    if isinstance(error, ConnectionAbortedError):
        # asyncio's and uvloop's word for a handshake past its deadline.
        return _TIMEOUT
    return _DISCONNECTED if isinstance(error, OSError) else _OTHER


def serial_number_of(error: Exception) -> str:
    """Return the serial number of the certificate that was shown, in hex; "" when there was none to be seen."""
    shown = getattr(error, "shown_certificate", b"")
    try:
        return serial_hex(x509.load_der_x509_certificate(shown).serial_number)[:_MAX_SERIAL_DIGITS] if shown else ""
    except Exception:  # a stranger made it: whatever is wrong with it, the refusal is told
        return ""


class Refusals:
    """Counts refused handshakes, and logs them within bounds."""

    def __init__(self) -> None:
        self._second = 0
        self._lines = 0
        self._suppressed = 0

    def note_error(self, error: Exception, address: str) -> None:
        # OpenSSL's own words: constants of its source, nothing that the caller chose.
        detail = getattr(error, "verify_message", None) or getattr(error, "reason", None) or type(error).__name__
        self.note(reason_of(error), address, serial_number=serial_number_of(error), detail=str(detail))

    def note(self, reason: str, address: str, *, serial_number: str = "", detail: str = "") -> None:
        metrics.HANDSHAKES_REFUSED.labels(reason).inc()
        fields = {"reason": reason, "serial_number": serial_number, "address": address, "detail": detail}
        if reason == _DISCONNECTED:
            # Port scanners, and health probes that connect and close.
            logger.debug("a handshake was refused", extra=fields)
        elif self._may_log():
            logger.warning("a handshake was refused", extra={**fields, "suppressed": self._suppressed})
            self._suppressed = 0
        else:
            self._suppressed += 1

    def _may_log(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        return self._lines <= LINES_PER_SECOND
