"""Windows processes beside Linux ones: Redis, the registry and the portal run on Linux, as in other system tests."""

import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest

from tests.running import ROOT, Installation, start_valkey
from tests.windows import wine_python
from tests.windows.wine_python import WinePython


@pytest.fixture(scope="session")
def python() -> Iterator[WinePython]:
    """CPython for Windows, made if need be. Its Wine ends with the tests."""
    lacking = wine_python.missing()
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    made = wine_python.make()
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A prepared home, as people name folders on Windows; Valkey, the registry and the portal run on it."""
    home = tmp_path_factory.mktemp("windows") / "Program Files" / "Nachrichten für Ñandú 消息"
    installed = Installation(home, {"MSGSYS_RETRY_SECONDS": "2", "MSGSYS_VISIBILITY_TIMEOUT": "3600"})
    try:
        installed.up("--no-demo")
        installed.stop("up")
        start_valkey(installed)
        for role in ("registry", "portal"):
            installed.serve(role)
        yield installed
    finally:
        installed.stop_all()


@dataclass
class Windows:
    """A Windows machine with the same home, ports and settings as the Linux processes."""

    python: WinePython
    house: Installation
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @staticmethod
    def path(path: Path) -> str:
        """Return the path as Windows programs under Wine name it: drive Z is the root."""
        return "Z:" + str(path).replace("/", "\\")

    def environment(self, **settings: str) -> dict[str, str]:
        own = {"MSGSYS_HOME": self.path(self.house.home), "MSGSYS_ENV_FILE": "NUL"}
        return {**self.house.environment, **own, **settings}

    def manage(self, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        return self.python.run("manage.py", *arguments, **self.environment(**settings))

    def serve(self, role: str) -> "subprocess.Popen[bytes]":
        """Start a role as `up` does and a service can: the pipe to its standard input is its stop event."""
        return self.spawn(role, "serve", role)

    def spawn(self, name: str, *arguments: str, **settings: str) -> "subprocess.Popen[bytes]":
        """Start a management command."""
        environment = {**os.environ, **self.python.environment, **self.environment(**settings)}
        process = subprocess.Popen(
            [*self.python.command, "manage.py", *arguments],
            env={**environment, "MSGSYS_SUPERVISED": "1"},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.log_file(name).unlink(missing_ok=True)
        threading.Thread(target=_write, args=(process.stdout, self.log_file(name)), daemon=True).start()
        self.processes[name] = process
        return process

    def log_file(self, name: str) -> Path:
        return self.house.home / f"{name}.windows.log"

    def has_logged(self, name: str, text: str) -> bool:
        file = self.log_file(name)
        return file.exists() and text in file.read_text(encoding="utf-8", errors="replace")

    def stop(self, name: str, within: float = 10) -> int:
        """Set the stop event and return the exit code; fails when it is not there in time (seconds)."""
        process = self.processes[name]
        process.stdin.close()
        code = process.wait(within)
        del self.processes[name]
        return code

    def kill(self, name: str) -> None:
        """End it without notice, as TerminateProcess does: a SIGKILL is what Wine makes of that."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(10)
        process.stdin.close()

    def kill_all(self) -> None:
        for name in list(self.processes):
            self.kill(name)


def _write(output: IO[bytes], log: Path) -> None:
    """Write what a process prints to its log. Under Wine, the interpreter itself prints to a pipe only."""
    with output, log.open("wb", buffering=0) as file:
        for line in output:
            file.write(line)


@pytest.fixture
def windows(python: WinePython, house: Installation) -> Iterator[Windows]:
    machine = Windows(python, house)
    try:
        yield machine
    finally:
        machine.kill_all()
