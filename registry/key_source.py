"""Where the key ring comes from: a private file, or a command that asks a KMS, an HSM or a Vault for it.

The contract of a command: it writes the document of registry.key_document to its standard output, at most 1 MiB, and
ends with exit code 0 within 10 seconds. It is started without a shell, with this process's environment and no input.
Its standard error is not read, because a tool may print there what it was asked for.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from certs_app.files import UnsafeFile, read_secret
from certs_app.revocation import FileIdentity, file_identity
from registry.key_document import KeyDocument, KeyRingError, decode

MAX_BYTES = 1 << 20
TIMEOUT = 10.0


class Source(Protocol):
    """Something that has the key ring. It is looked at again after so many seconds; sooner for an unknown key."""

    @property
    def look_every(self) -> float: ...

    @property
    def unknown_every(self) -> float: ...

    def version(self) -> object:
        """Return what is another object once there may be something new to read."""

    def read(self) -> KeyDocument:
        """Raise KeyRingError."""


@dataclass(frozen=True)
class KeyFile:
    """A file of settings.KEY_FILE's kind. To look at it is a stat()."""

    path: Path
    look_every: float = 1.0
    unknown_every: float = 1.0

    def version(self) -> FileIdentity | None:
        try:
            return file_identity(self.path)
        except OSError:
            return None

    def read(self) -> KeyDocument:
        try:
            return decode(read_secret(self.path), str(self.path))
        except UnsafeFile as error:
            raise KeyRingError(f"the key ring cannot be used: {error}") from None


@dataclass(frozen=True)
class KeyCommand:
    """The command of settings.KEY_COMMAND. To look at it is to run it."""

    command: Sequence[str]
    look_every: float = 900.0
    unknown_every: float = 10.0

    def version(self) -> object:
        return object()

    def read(self) -> KeyDocument:
        return decode(_output(self.command), f"of the command {self.command[0]}")


def source(file: Path, command: Sequence[str]) -> Source:
    """Return the source that these settings name: the command, when there is one."""
    return KeyCommand(command) if command else KeyFile(file)


def _output(command: Sequence[str]) -> bytes:
    """Run a command and return what it writes. Raises KeyRingError."""
    name = command[0]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # A group of its own: what it starts is stopped with it.
            start_new_session=True,
        )
    except OSError as error:
        raise KeyRingError(f"the key command {name} cannot be started: {error.strerror}") from None
    content, code = _finish(process)
    if code is None:
        raise KeyRingError(f"the key command {name} has not ended within {TIMEOUT:.0f} s")
    if len(content) > MAX_BYTES:
        raise KeyRingError(f"the key command {name} writes more than {MAX_BYTES} bytes: that is no key ring")
    if code != 0:
        raise KeyRingError(f"the key command {name} failed with exit code {code}: run it by hand to see what it says")
    return content


def _finish(process: "subprocess.Popen[bytes]") -> tuple[bytes, int | None]:
    """Return what a process wrote, one byte too much at most, and its exit code; None when it took too long."""
    assert process.stdout is not None
    written: list[bytes] = []
    # In a thread: reading has no timeout, and what the command started may hold its output open after it is gone.
    reader = threading.Thread(target=_read, args=(process.stdout, written), daemon=True)
    reader.start()
    reader.join(TIMEOUT)
    try:
        if written and len(written[0]) <= MAX_BYTES:
            return written[0], process.wait(TIMEOUT)
        return b"".join(written), 0 if written else None
    except subprocess.TimeoutExpired:
        return b"", None
    finally:
        _stop(process)


def _read(output: IO[bytes], written: list[bytes]) -> None:
    with output:
        written.append(output.read(MAX_BYTES + 1))


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop it, when it has not ended."""
    if process.poll() is None:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
