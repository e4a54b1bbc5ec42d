"""The metrics port: /metrics, /healthz and /readyz over mutual TLS, for the roles prometheus and admin."""

import asyncio
import json
import threading

from django.conf import settings
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from certs_app.admission import PEER, admit
from certs_app.asgi import JSON, Receive, Scope, Send, send_answer, send_problem
from certs_app.revocation import Revocations
from certs_app.server import Listener, build_server, new_event_loop
from certs_app.tls import TlsFiles
from monitoring.health import readiness
from wire.problems import Problem

ALLOWED_ROLES = frozenset({"prometheus", "admin"})


class Exporter:
    """The ASGI application of the metrics port."""

    def __init__(self) -> None:
        self._revocations = Revocations(settings.CRL_FILE, settings.CA_FILE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            admit(scope.get(PEER), ALLOWED_ROLES, self._revocations)
            status, media_type, body = await self._answer(scope["method"], scope["path"])
        except Problem as problem:
            await send_problem(send, problem)
        else:
            await send_answer(send, status, body, {}, media_type=media_type)

    async def _answer(self, method: str, path: str) -> tuple[int, str, bytes]:
        if method not in ("GET", "HEAD"):
            raise Problem("method_not_allowed", "Only GET and HEAD are used here.", headers={"Allow": "GET, HEAD"})
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, await asyncio.to_thread(generate_latest)
        if path == "/healthz":
            return 200, JSON, b'{"status":"alive"}'
        if path == "/readyz":
            checks = await asyncio.to_thread(readiness())
            ready = all(checks.values())
            document = {
                "status": "ready" if ready else "not ready",
                "checks": checks,
                "reasons": readiness().reasons,
            }
            return (200 if ready else 503), JSON, json.dumps(document).encode()
        raise Problem("not_found", "Here are /metrics, /healthz and /readyz.")


def start() -> None:
    """Serve the metrics port from a daemon thread of this process. Raises what building a TLS context raises."""
    pair = settings.SERVER_CERTIFICATE
    files = TlsFiles(pair["certificate"], pair["key"], settings.CA_FILE, settings.CRL_FILE)
    server = build_server(Exporter(), Listener(settings.HOST, settings.METRICS_PORT, files))

    def run() -> None:
        loop = new_event_loop()
        loop.run_until_complete(server.serve())

    threading.Thread(target=run, name="metrics", daemon=True).start()
