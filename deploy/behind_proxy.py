"""Serve a role behind a TLS terminator: gunicorn on a Unix socket, waitress on a loopback port (the way on Windows)."""

import logging
from collections.abc import Callable

from django.conf import settings
from django.utils.module_loading import import_string

from msgsys_project.environment import LocalAddress

logger = logging.getLogger(__name__)

Begin = Callable[[], None]


def serve_at(address: LocalAddress, begin: Begin) -> None:
    """Serve until SIGINT or SIGTERM. `begin` starts what a serving process does beside: upkeep and metrics.

    By name: gunicorn cannot even be imported on Windows.
    """
    logger.info("serving behind a TLS terminator", extra={"role": settings.ROLE, "address": shown(address)})
    server = "deploy.unix_server.serve" if address.socket else "deploy.loopback_server.serve"
    import_string(server)(address, begin)


def shown(address: LocalAddress) -> str:
    """Return the address as nginx writes it."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"unix:{address.socket}" if address.socket else f"{host}:{address.port}"
