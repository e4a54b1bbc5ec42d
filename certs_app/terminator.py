"""Who is calling, when somebody else does TLS for us: nginx, say, passes the caller's certificate on in a header.

A header is only text, so it is believed on two conditions: it begins with the token that the terminator alone shares
with us, and the certificate in it, verified here once more, is of our CA. Revocation is for `admit`, at each request.
"""

import hashlib
import hmac
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from django.utils import timezone

from certs_app.admission import PEER
from certs_app.identity import IdentityError, Peer
from certs_app.revocation import FileIdentity, file_identity

logger = logging.getLogger(__name__)

# "<token> <PEM, percent-encoded>": nginx's $ssl_client_escaped_cert.
CERTIFICATE = "X-SSL-Client-Cert"
# "<token> <address>": whom the portal counts sign-ins of. Every caller's own address is the terminator's here.
ADDRESS = "X-Real-IP"
# An RSA 8192 certificate takes 4 KiB as escaped PEM.
MAX_VALUE = 16 * 1024
MAX_KNOWN = 4096
# Root, issuing CA, caller.
MAX_ISSUERS = 2


class Refused(Exception):
    """What was passed on is not to be believed. The message is for the log: a word or two, nothing from the header."""


class Terminator:
    """Reads what the terminator says about a caller."""

    def __init__(self, token: str, ca_file: Path, trust_domain: str) -> None:
        self._token = token.encode()
        self._authorities = _Authorities(ca_file)
        self._trust_domain = trust_domain

    def verify_forwarded(self, value: bytes, now: datetime) -> Peer | None:
        """Return the caller whose certificate was passed on; None when there is none to be believed."""
        if not value:
            return None
        try:
            return self._authorities.current().verify(self._told(value), self._trust_domain, now)
        except Refused as refused:
            logger.warning("a forwarded certificate was not believed", extra={"reason": str(refused)})
            return None

    def address(self, value: bytes) -> str:
        """Return the caller's address; "" when there is none to be believed."""
        if not value:
            return ""
        try:
            return str(ip_address(self._told(value).decode("ascii")))
        except (Refused, ValueError) as refused:
            logger.warning("a forwarded address was not believed", extra={"reason": type(refused).__name__})
            return ""

    def _told(self, value: bytes) -> bytes:
        """Return what follows the token. Raises Refused."""
        token, _, rest = value.partition(b" ")
        # No token is none that could be right: an empty one would match an empty header.
        if not self._token or not hmac.compare_digest(token, self._token):
            raise Refused("wrong token")
        return rest


class _Authorities:
    """The CAs we trust, read again when their file changes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._identity: FileIdentity | None = None
        self._trust: _Trust | None = None
        self._lock = threading.Lock()

    def current(self) -> "_Trust":
        """Return the newest that could be read. Raises Refused when none ever could."""
        identity: FileIdentity | None
        try:
            identity = file_identity(self._file)
        except OSError:
            identity = self._identity
        if identity != self._identity:
            with self._lock:
                self._read_once(identity)
        if self._trust is None:
            raise Refused("no CA certificates")
        return self._trust

    def _read_once(self, identity: FileIdentity | None) -> None:
        if identity == self._identity:
            return
        try:
            self._trust = _Trust(self._file.read_bytes())
        except OSError:
            return
        except ValueError:
            # The last good ones stay: their revocation lists still end them.
            logger.exception("the CA certificates cannot be read, the last good ones stay")
        self._identity = identity


@dataclass(frozen=True)
class _Verified:
    """`begins` and `ends` bound the whole chain: the CAs above the caller end as well."""

    peer: Peer
    begins: datetime
    ends: datetime


class _Trust:
    """The CAs of one version of the file, and the callers they have vouched for."""

    def __init__(self, content: bytes) -> None:
        authorities = x509.load_pem_x509_certificates(content)
        self._roots = Store([one for one in authorities if one.issuer == one.subject])
        self._between = [one for one in authorities if one.issuer != one.subject]
        self._known: OrderedDict[bytes, _Verified] = OrderedDict()
        self._lock = threading.Lock()

    def verify(self, escaped: bytes, trust_domain: str, now: datetime) -> Peer:
        """Return who a percent-encoded PEM is. Raises Refused."""
        fingerprint = hashlib.sha256(escaped).digest()
        with self._lock:
            known = self._known.get(fingerprint)
        if known is None or not known.begins <= now < known.ends:
            known = self._verify(_single_certificate(escaped), trust_domain, now)
            self._remember(fingerprint, known)
        return known.peer

    def _verify(self, certificate: x509.Certificate, trust_domain: str, now: datetime) -> _Verified:
        policy = PolicyBuilder().store(self._roots).time(now).max_chain_depth(MAX_ISSUERS)
        try:
            # Chain, signatures, dates, and that the certificate is for clients; not revocation.
            verified = policy.build_client_verifier().verify(certificate, self._between)
            peer = Peer.from_der(certificate.public_bytes(Encoding.DER), trust_domain)
        except VerificationError:
            raise Refused("not of our CA, not in date or not a client's") from None
        except IdentityError as error:
            raise Refused(str(error)) from None
        return _Verified(
            peer,
            begins=max(one.not_valid_before_utc for one in verified.chain),
            ends=min(one.not_valid_after_utc for one in verified.chain),
        )

    def _remember(self, fingerprint: bytes, verified: _Verified) -> None:
        with self._lock:
            self._known[fingerprint] = verified
            if len(self._known) > MAX_KNOWN:
                # The oldest: it costs its owner one verification (0.1 ms) at the next request.
                self._known.popitem(last=False)


def _single_certificate(escaped: bytes) -> x509.Certificate:
    if len(escaped) > MAX_VALUE:
        raise Refused("too long")
    pem = unquote_to_bytes(escaped).strip()
    if pem.count(b"-----BEGIN") != 1 or not pem.startswith(b"-----BEGIN") or not pem.endswith(b"-----"):
        raise Refused("not one certificate")
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise Refused("unreadable") from None


def take(headers: list[tuple[bytes, bytes]], name: str) -> bytes:
    """Take every spelling of a header out of an ASGI header list; return its value, b"" unless there was exactly one.

    CGI names spell "-" as "_", so to whatever reads those, both are the same header.
    """
    wanted = name.lower().encode()
    found = [value for header, value in headers if header == wanted]
    headers[:] = [pair for pair in headers if pair[0].replace(b"_", b"-") != wanted]
    return found[0] if len(found) == 1 else b""


class ForwardedCaller:
    """WSGI: puts the caller whose certificate was passed on into the environ, and takes the header out."""

    def __init__(self, application: Callable[..., Iterable[bytes]], terminator: Terminator) -> None:
        self._application = application
        self._terminator = terminator

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # A header that was sent twice comes joined by a comma, which no escaped PEM and no address has.
        certificate, address = _taken(environ, CERTIFICATE), _taken(environ, ADDRESS)
        environ[PEER] = self._terminator.verify_forwarded(certificate, timezone.now())
        environ["REMOTE_ADDR"] = self._terminator.address(address)
        return self._application(environ, start_response)


def _taken(environ: dict[str, Any], name: str) -> bytes:
    value: str = environ.pop(f"HTTP_{name.upper().replace('-', '_')}", "")
    return value.encode("latin-1")
