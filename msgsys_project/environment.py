"""Typed readers for the environment. Every setting is declared by being read; .env.example is made from that list."""

import json
import os
import shlex
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured
from dotenv import load_dotenv

BASE_DIR = Path(__file__).resolve().parent.parent


class Setting(NamedTuple):
    """A declared setting: its name, the default as shown to people, and what it is for."""

    name: str
    default: str
    help: str


DECLARED: dict[str, Setting] = {}


def _read(name: str, default: str, help: str) -> str:
    DECLARED[name] = Setting(name, default, help)
    # Set but empty means not set: an empty line copied from .env.example must not switch anything.
    return os.environ.get(name, "").strip() or default


def text(name: str, default: str, help: str) -> str:
    return _read(name, default, help)


def integer(name: str, default: int, help: str, *, minimum: int = 0, maximum: int = 1 << 31) -> int:
    value = _read(name, str(default), help)
    try:
        number = int(value)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a whole number, not {value!r}") from None
    if not minimum <= number <= maximum:
        raise ImproperlyConfigured(f"{name} must lie between {minimum} and {maximum}, not {number}")
    return number


def names(name: str, default: str, help: str) -> list[str]:
    return [part.strip() for part in _read(name, default, help).split(",") if part.strip()]


def arguments(name: str, help: str) -> tuple[str, ...]:
    """Read a command: a JSON list of strings, or words as a shell would split them. Empty when there is none."""
    value = _read(name, "", help)
    try:
        words = json.loads(value) if value.startswith("[") else shlex.split(value)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a command: a JSON list of strings, or words") from None
    if not all(isinstance(word, str) for word in words):
        raise ImproperlyConfigured(f"{name} must be a command: a JSON list of strings, or words")
    return tuple(words)


def path(name: str, default: Path, help: str) -> Path:
    shown = default.relative_to(HOME).as_posix() if default.is_relative_to(HOME) else default.name
    return Path(_read(name, f"$MSGSYS_HOME/{shown}", help).replace("$MSGSYS_HOME", str(HOME))).expanduser()


class LocalAddress(NamedTuple):
    """Where a process listens for others of this machine only: a Unix socket, or else a port on the loopback."""

    socket: str
    host: str = ""
    port: int = 0


# What a Unix socket's address has room for (unix(7)), less the closing zero.
_MAX_SOCKET_PATH = 107


def local_address(name: str, help: str) -> LocalAddress | None:
    """Read `unix:/path` or `127.0.0.1:port`; None when not set. Raises ImproperlyConfigured for anything else."""
    value = _read(name, "", help)
    if not value:
        return None
    found = _unix_socket(value) or _loopback(value)
    if found is None:
        raise ImproperlyConfigured(
            f"{name} must be unix:/an/absolute/path.sock (not on Windows) or 127.0.0.1:PORT, not {value!r}: "
            "the terminator tells us who is calling, so nobody outside this machine may reach us"
        )
    return found


def _unix_socket(value: str) -> LocalAddress | None:
    scheme, _, path = value.partition(":")
    if scheme != "unix" or sys.platform == "win32":
        return None
    fits = path.startswith("/") and len(os.fsencode(path)) <= _MAX_SOCKET_PATH
    # The address is also written into nginx's configuration.
    return LocalAddress(path) if fits and not set(path) & set(" \t\"';{}$\\:#") else None


def _loopback(value: str) -> LocalAddress | None:
    host, _, port = value.rpartition(":")
    try:
        loopback = ip_address(host.strip("[]")).is_loopback and 0 < int(port) < 65536
    except ValueError:
        return None
    return LocalAddress("", host.strip("[]"), int(port)) if loopback else None


def secret(name: str, file: Path, help: str) -> str:
    """Read a secret from NAME, or from the file NAME_FILE names, or from `file`; empty when there is none.

    Empty is for the system checks to complain about: commands that make the secrets must be able to start.
    """
    given = _read(name, "", help)
    if given:
        return given
    source = path(f"{name}_FILE", file, f"File that holds {name}, when {name} itself is not set.")
    try:
        return source.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


load_dotenv(os.environ.get("MSGSYS_ENV_FILE") or BASE_DIR / ".env", override=False, encoding="utf-8")

# A relative one is relative to the project, wherever a command is run from.
HOME = BASE_DIR / text("MSGSYS_HOME", "var", "Folder for all state: keys, certificates, database, queue, logs.")
