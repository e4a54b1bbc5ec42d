"""HTTP/1.1 from a TLS terminator: as from clients themselves, but for who is calling."""

import asyncio
from typing import Any, cast

from django.utils import timezone

from certs_app.admission import PEER
from certs_app.http_protocol import PeerProtocol
from certs_app.terminator import ADDRESS, CERTIFICATE, Terminator, take


class TerminatedProtocol(PeerProtocol):
    """Asks the terminator, at each request, whose it is: one connection carries those of many callers."""

    def __init__(self, terminator: Terminator, **options: Any) -> None:
        super().__init__(**options)
        self.terminator = terminator

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        # Callers reach the terminator by TLS only, and nobody but the terminator reaches us.
        self.scheme = "https"

    def on_headers_complete(self) -> None:
        if not self.refused:
            # Taken out first: in direct TLS, this header is refused.
            certificate, address = take(self.headers, CERTIFICATE), take(self.headers, ADDRESS)
            scope = cast(dict[str, Any], self.scope)
            scope[PEER] = self.terminator.verify_forwarded(certificate, timezone.now())
            scope["client"] = (self.terminator.address(address), 0)
        super().on_headers_complete()
