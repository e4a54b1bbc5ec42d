"""Keep the processes of one machine running: start, wait until ready, restart with back-off, stop in order."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings

from deploy import stopping

BACK_OFF = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
STABLE_AFTER = 60.0

Process = subprocess.Popen[bytes]
_NEW_GROUP = int(getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0))


@dataclass
class Child:
    """One supervised process: how to start it, and how it has been doing.

    `log` is what it writes itself; `output` takes what it prints, tracebacks above all. They may be the same file.
    """

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log: Path
    output: Path
    process: Process | None = None
    started_at: float = 0.0
    crashes: int = 0
    restart_at: float = field(default=0.0)

    def start(self) -> None:
        self._close_stdin()
        self.output.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Begun anew, so that it does not grow for ever; but a restart must not wipe out why the last one crashed.
        with self.output.open("wb" if self.process is None else "ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, **self.environment},
                # Closes when we stop a child on Windows, and everywhere when we die (deploy.stopping).
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                # A group of their own: Ctrl-C is for the supervisor, which stops them in order.
                creationflags=_NEW_GROUP,
                start_new_session=True,
            )
        self.started_at = time.monotonic()
        self.restart_at = 0.0

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def last_words(self) -> str:
        """Return the ends of what it printed and of its log: they say why it stopped, and often what to do."""
        files = dict.fromkeys((self.output, self.log))
        return "\n".join(f"{file}:\n{lines}" for file in files if (lines := _tail(file)))

    def terminate(self) -> None:
        if self.process is not None and self.running():
            stopping.request(self.process)

    def finish(self, deadline: float) -> None:
        """Wait for the end until `deadline` (monotonic), then kill."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            # One that hangs in the kernel outlives even this; the other processes must be stopped all the same.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2)
        self._close_stdin()

    def _close_stdin(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()


class Supervisor:
    """Runs children until told to stop. `report` gets one line per event; `on_change` runs after each restart."""

    def __init__(self, report: Callable[[str], None], on_change: Callable[[], None]) -> None:
        self.children: list[Child] = []
        self.report = report
        self.on_change = on_change
        self.stopping = False

    def start(self, children: Sequence[Child]) -> None:
        for child in children:
            self.children.append(child)
            child.start()

    def check(self) -> None:
        """Restart what has crashed, each after its back-off. Called a few times a second."""
        restarted = False
        for child in self.children:
            if child.running():
                if child.crashes and time.monotonic() - child.started_at > STABLE_AFTER:
                    child.crashes = 0
            elif child.restart_at == 0.0:
                self._schedule(child)
            elif time.monotonic() >= child.restart_at:
                child.start()
                restarted = True
        if restarted:
            self.on_change()

    def _schedule(self, child: Child) -> None:
        code = child.process.returncode if child.process else None
        wait = BACK_OFF[min(child.crashes, len(BACK_OFF) - 1)]
        child.crashes += 1
        child.restart_at = time.monotonic() + wait
        logs = " and ".join(dict.fromkeys((str(child.log), str(child.output))))
        self.report(f"{child.name} stopped (exit code {code}); starting it again in {wait:.0f} s. Its log: {logs}")

    def stop(self, groups: Sequence[tuple[Sequence[str], float]]) -> list[Child]:
        """Stop group after group; each gets its seconds, then it is killed (nothing queued is lost).

        Return those that run even so.
        """
        self.stopping = True
        for names, seconds in groups:
            group = [child for child in self.children if child.name in names]
            for child in group:
                child.terminate()
            deadline = time.monotonic() + seconds
            for child in group:
                child.finish(deadline)
        return [child for child in self.children if child.running()]


def _tail(file: Path, lines: int = 15) -> str:
    try:
        content = file.read_bytes()
    except OSError:
        return ""
    return "\n".join(f"  {line}" for line in content.decode(errors="replace").splitlines()[-lines:])


def taken(ports: dict[str, int]) -> dict[str, int]:
    """Return the ports that something else listens on, by the name of who wants them."""
    return {name: port for name, port in ports.items() if not _free(port)}


def _free(port: int) -> bool:
    with socket.socket() as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.HOST, port))
        except (OSError, OverflowError):
            # OverflowError: the offset has put it above 65535.
            return False
    return True
