"""The CA as the services reach it over HTTPS, with their client certificate.

CaError
├── CaAway         no answer, or one that is not the CA's: try again later
└── CaRefuses      it refuses this request, and says why
"""

import json
import ssl
from collections.abc import Mapping
from typing import Any, Protocol

from django.conf import settings
from urllib3.exceptions import HTTPError

from certs_app.files import UnsafeFile
from certs_app.registry_connection import pool_manager
from certs_app.tls import TlsFiles, client_context, fetching_context

MAX_ANSWER_BYTES = 32 << 20


class CaError(Exception):
    """The CA did not do what it was asked for."""


class CaAway(CaError):
    """Temporary: it passes."""


class CaRefuses(CaError):
    """Refused by the CA itself. The message has its code."""


class Ca(Protocol):
    """What a service wants of the CA for its own certificates. Serial numbers are hex. Each raises CaError."""

    def renew(self, serial_number: str, csr: bytes) -> bytes:
        """Return the chain (PEM) of the successor of one of this service's certificates."""

    def in_use(self, serial_number: str) -> None:
        """Say that this certificate is now shown."""


class RemoteCa:
    """The CA at the other end of REGISTRY_URL."""

    def __init__(self) -> None:
        pair = settings.CLIENT_CERTIFICATE
        self._files = TlsFiles(pair["certificate"], pair["key"], settings.CA_FILE, settings.CRL_FILE)

    def renew(self, serial_number: str, csr: bytes) -> bytes:
        answer = self._post("/renew_cert", {"csr": csr.decode(), "serial_number": serial_number})
        chain = answer.get("certificate")
        if not isinstance(chain, str):
            raise CaAway("the answer is not the registry's")
        return chain.encode()

    def in_use(self, serial_number: str) -> None:
        self._post("/certificate_in_use", {"serial_number": serial_number})

    def get(self, path: str, tag: str = "") -> tuple[bytes | None, str]:
        """Return a public file and its ETag; None instead of the file while `tag` still names it.

        Revocation is not checked on this way: what is fetched is signed by the CA itself, and a node whose list is
        out of date must be able to get a new one.
        """
        headers = {"If-None-Match": tag} if tag else {}
        status, answered, body = self._exchange(fetching_context, "GET", path, None, headers)
        if status == 304:
            return None, tag
        if status != 200:
            raise CaAway(f"HTTP {status}")
        return body, answered.get("ETag", "")

    def _post(self, path: str, document: Mapping[str, str]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        status, _, body = self._exchange(client_context, "POST", path, json.dumps(document).encode(), headers)
        try:
            answer = json.loads(body)
        except ValueError:
            raise CaAway(f"HTTP {status}") from None
        if status in (200, 201) and isinstance(answer, dict):
            return answer
        code = str(answer.get("code", ""))[:64] if isinstance(answer, dict) else ""
        if status < 500 and code:
            raise CaRefuses(f"HTTP {status} {code}")
        raise CaAway(f"HTTP {status} {code}")

    def _exchange(
        self, context: Any, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Make one request on a connection of its own: they are rare, and each shows the newest certificate."""
        try:
            with pool_manager(context(self._files)) as pool:
                url = settings.REGISTRY_URL.rstrip("/") + path
                answer = pool.request(method, url, body=body, headers=headers, preload_content=False)
                content = answer.read(MAX_ANSWER_BYTES)
                if answer.read(1):
                    raise CaAway("the answer is too large to be the registry's")
                return answer.status, answer.headers, content
        except (HTTPError, OSError, ssl.SSLError, UnsafeFile) as error:
            # Their own words name the host and the cause, never a secret.
            raise CaAway(f"{type(error).__name__}: {error}"[:200]) from None
