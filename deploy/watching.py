"""Run a command whenever files change, for programs that read them once: nginx and its revocation lists."""

import logging
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from certs_app.revocation import FileIdentity, file_identity

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.5
COMMAND_TIMEOUT = 30
# A pair is replaced file by file, and a reload in between fails: the first tries come soon.
RETRY_AFTER = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

Seen = tuple[FileIdentity | None, ...]


class Watcher:
    """Runs `command` once at its start, for what changed before, and once for each change of `files`."""

    def __init__(self, files: Sequence[Path], command: Sequence[str], stop: threading.Event) -> None:
        self._files = files
        self._command = command
        self._stop = stop

    def run(self) -> None:
        """Watch until `stop` is set."""
        handled: Seen | None = None
        while not self._stop.is_set():
            seen = self._look()
            if seen != handled:
                handled = self._handle(seen)
            self._stop.wait(LOOK_EVERY)

    def _look(self) -> Seen:
        return tuple(_identity(file) for file in self._files)

    def _handle(self, seen: Seen) -> Seen:
        """Run the command until it succeeds or the tries are used up; return what it was run for."""
        for wait in (*RETRY_AFTER, None):
            # Before the run: what changes during it may have been missed, and is a change of its own.
            seen = self._look()
            if self._succeeds() or self._stop.is_set():
                return seen
            if wait is not None:
                self._stop.wait(wait)
        logger.error("the command keeps failing, so it is left until the next change")
        return seen

    def _succeeds(self) -> bool:
        try:
            done = subprocess.run(
                self._command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            logger.warning("the command could not be run", extra={"reason": type(error).__name__})
            return False
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()[-300:]
            logger.warning("the command failed", extra={"exit_code": done.returncode, "said": said})
            return False
        logger.info("files changed, the command was run")
        return True


def _identity(file: Path) -> FileIdentity | None:
    try:
        return file_identity(file)
    except OSError:
        return None
