"""waitress on a loopback port: behind a TLS terminator on Windows, where gunicorn does not run."""

import signal
import sys
import threading
import time
from typing import Any

import waitress
from django.conf import settings
from django.core.management.base import CommandError
from django.utils.module_loading import import_string
from waitress import wasyncore

from certs_app.http_protocol import MAX_HEAD_BYTES
from certs_app.server import STOP_WITHIN
from deploy.behind_proxy import Begin, shown
from msgsys_project.environment import LocalAddress

# One descriptor each, and Windows' select() takes 512.
MAX_CONNECTIONS = 400
LOOK_EVERY = 0.2


def serve(address: LocalAddress, begin: Begin) -> None:
    """Serve until SIGINT or SIGTERM. Raises CommandError when the port is taken."""
    begin()
    stop = threading.Event()
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: stop.set())
    try:
        server = waitress.create_server(import_string("msgsys_project.wsgi.application"), **options(address))
    except OSError as error:
        raise CommandError(f"{shown(address)} cannot be listened on: {error.strerror}") from None
    run_until(server, stop)


def run_until(server: Any, stop: threading.Event) -> None:
    """Serve until `stop` is set: waitress' own run() stops with answers half sent."""
    while not stop.is_set():
        _turn(server)
    _finish(server)


def options(address: LocalAddress) -> dict[str, Any]:
    return {
        "listen": shown(address),
        "threads": settings.MAX_CONCURRENT_REQUESTS,
        "connection_limit": min(settings.MAX_CONNECTIONS, MAX_CONNECTIONS),
        "channel_timeout": settings.KEEP_ALIVE,
        "max_request_header_size": MAX_HEAD_BYTES,
        # The terminator refuses what is larger; one byte more leaves the refusal of a direct call to Django.
        "max_request_body_size": settings.MAX_BODY_BYTES + 1,
        # Messages stay in memory: waitress writes what is larger than these to files.
        "inbuf_overflow": settings.MAX_BODY_BYTES + 2,
        "outbuf_overflow": settings.MAX_BODY_BYTES + 2,
        "asyncore_use_poll": sys.platform != "win32",
        # Callers reach the terminator by TLS only.
        "url_scheme": "https",
        "ident": None,
    }


def _turn(server: Any) -> None:
    wasyncore.loop(timeout=LOOK_EVERY, map=server._map, use_poll=server.adj.asyncore_use_poll, count=1)


def _finish(server: Any) -> None:
    """Take no more connections, and see those through that are being answered."""
    wasyncore.dispatcher.close(server)
    deadline = time.monotonic() + STOP_WITHIN.total_seconds() - 1
    while time.monotonic() < deadline and any(_is_busy(channel) for channel in server.active_channels.values()):
        _turn(server)
    server.task_dispatcher.shutdown(timeout=0.5)
    wasyncore.close_all(server._map)


def _is_busy(channel: Any) -> bool:
    return bool(channel.requests or channel.total_outbufs_len)
