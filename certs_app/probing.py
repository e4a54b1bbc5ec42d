"""Touch a server from outside: connect, shake hands, ask. Each way to fail is a sentence, and each wait has an end."""

import io
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import cast

from certs_app.inspection import Wrong

# In TLS 1.3 a refused client hears of it after its own handshake. Whoever sends at once may get a reset and lose the
# alert that says why.
SETTLE = 0.5
MAX_ANSWER = 1 << 16

_OLD_TLS = {"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE"}

# The server's alert (RFC 8446 §6.2), and what it means when the certificate is ours.
_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it requires a certificate and got none: give --cert and --key, or --as STEM",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "its revocation list names our certificate: issue a new one",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": (
        "it holds our certificate or its own list for expired: look at its clock, and run publish_crl there"
    ),
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "our certificate is not for clients: use one whose usage is client",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it finds our certificate or its own list not valid yet: look at its clock",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know our CA or has no list of it: look at its ca.crt and crl.pem",
    "TLSV1_ALERT_DECRYPT_ERROR": "a signature does not fit: our certificate, or its own revocation list, is forged",
}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: HTTPMessage
    body: bytes


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    timeout: float

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def connect(address: Address) -> socket.socket:
    """Open a TCP connection. Raises Wrong."""
    ends = time.monotonic() + address.timeout
    problem = f"There is no address for {address.host}: check the name."
    for family, kind, protocol, _, where in _resolve(address):
        plain = socket.socket(family, kind, protocol)
        try:
            plain.settimeout(max(0.1, ends - time.monotonic()))
            plain.connect(where)
        except OSError as error:
            plain.close()
            problem = _unreachable(address, error)
        else:
            plain.settimeout(address.timeout)
            return plain
    raise Wrong(problem)


_Resolved = list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int]]]


def _resolve(address: Address) -> _Resolved:
    """Look the name up beside us: the system's resolver has no timeout."""
    found: queue.SimpleQueue[_Resolved | OSError] = queue.SimpleQueue()

    def look() -> None:
        try:
            found.put(cast(_Resolved, socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            found.put(error if isinstance(error, OSError) else OSError(str(error)))

    threading.Thread(target=look, daemon=True).start()
    try:
        resolved = found.get(timeout=address.timeout)
    except queue.Empty:
        raise Wrong(
            f"The name {address.host} was not resolved within {address.timeout:g} s: look at this machine's DNS."
        ) from None
    if isinstance(resolved, OSError):
        raise Wrong(f"The name {address.host} is not known ({resolved.strerror or resolved}): check its spelling.")
    return resolved


def _unreachable(address: Address, error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"Nothing listens at {address}: is the server running, and is this its port?"
    if isinstance(error, TimeoutError):
        return f"{address} does not answer within {address.timeout:g} s: is a firewall in between?"
    return f"{address} cannot be reached: {error.strerror or error}."


@contextmanager
def shaken(address: Address, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """Connect and shake hands. Raises Wrong; ssl.SSLCertVerificationError is left to the caller, who knows more."""
    # wrap_socket takes the connection over: then there are two to close.
    with connect(address) as plain, _shake(address, context, plain) as tls:
        yield tls


def _shake(address: Address, context: ssl.SSLContext, plain: socket.socket) -> ssl.SSLSocket:
    try:
        return context.wrap_socket(plain, server_hostname=address.host)
    except ssl.SSLCertVerificationError:
        raise
    except TimeoutError:
        raise Wrong(
            f"{address} takes connections but does not begin TLS within {address.timeout:g} s: is this its port, and "
            "is the server stuck?"
        ) from None
    except ssl.SSLError as error:
        raise Wrong(_no_tls(address, error)) from None
    except OSError:
        raise Wrong(f"{address} closed the connection during the handshake: is this its port?") from None


def _no_tls(address: Address, error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLEOFError):
        return f"{address} closed the connection during the handshake: is this its port?"
    if error.reason in _OLD_TLS:
        return f"{address} speaks TLS, but not TLS 1.3: this system takes nothing older, update that server."
    if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
        return f"{address} speaks no TLS (plain HTTP, perhaps): is this its port?"
    return f"The handshake with {address} failed ({error.reason or error}): look at the server's log."


def settle(tls: ssl.SSLSocket, timeout: float) -> None:
    """Wait for the server's refusal, if it comes. Raises Wrong."""
    tls.settimeout(min(SETTLE, timeout))
    try:
        if tls.recv(1) == b"":
            raise Wrong(refusal(None))
    except TimeoutError:
        tls.settimeout(timeout)
    except OSError as error:
        raise Wrong(refusal(error)) from None


def refusal(error: OSError | None) -> str:
    """Say why the server refused us, as far as it told: often a client sees only that the connection ended."""
    reason = getattr(error, "reason", None)
    if reason in _ALERTS:
        return f"The server refused us: {_ALERTS[reason]}."
    return (
        "The server closed the connection without a reason, as it does when it refuses a certificate: the server's log "
        "says why. It may have a newer revocation list, another ca.crt, or a wrong clock."
    )


def ask(tls: ssl.SSLSocket, address: Address, path: str) -> Answer:
    """Send a GET and read the answer. Raises Wrong."""
    lines = (f"GET {path} HTTP/1.1", f"Host: {address}", "Connection: close", "Accept: application/json", "", "")
    ends = time.monotonic() + address.timeout
    heard = b""
    try:
        tls.sendall("\r\n".join(lines).encode())
        while len(heard) < MAX_ANSWER and (left := ends - time.monotonic()) > 0:
            tls.settimeout(left)
            more = tls.recv(MAX_ANSWER)
            if not more:
                break
            heard += more
    except TimeoutError:
        pass  # Whoever keeps the connection open in spite of our request may have answered all the same.
    except OSError as error:
        if not heard:
            raise Wrong(refusal(error)) from None
    if not heard:
        raise Wrong(f"{address} gave no answer to GET {path} within {address.timeout:g} s: is the server stuck?")
    return _parse(heard, address)


class _Heard:
    """What was heard, as the socket that http.client reads from."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._content)


def _parse(content: bytes, address: Address) -> Answer:
    response = HTTPResponse(cast(socket.socket, _Heard(content)))
    try:
        response.begin()
        return Answer(response.status, response.headers, response.read())
    except (HTTPException, ValueError):
        raise Wrong(f"{address} does not answer in HTTP: is this its port?") from None
