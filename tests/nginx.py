"""A real nginx as the TLS terminator of a test's installation, as the user who runs the tests."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import requests

from tests.running import ROOT, Installation, _free, eventually, start_valkey

PROGRAM = shutil.which("nginx", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


def configure(installed: Installation, role: str) -> Path:
    """Write a configuration for an nginx of its own and return it."""
    file = installed.home / f"nginx-{role}.conf"
    installed.manage("nginx_config", role, "--whole", "--out", str(file))
    return file


def command(installed: Installation, file: Path) -> list[str]:
    assert PROGRAM is not None
    return [PROGRAM, "-p", str(installed.home), "-e", str(installed.home / "nginx.error.log"), "-c", str(file)]


def start(installed: Installation, role: str) -> list[str]:
    """Start nginx in front of a role; return the command that reloads it."""
    file = configure(installed, role)
    run = command(installed, file)
    subprocess.run([*run, "-t"], check=True, capture_output=True, timeout=20)
    installed.spawn(f"nginx-{role}", *run)
    port = {"registry": 8000, "ingest": 8001, "portal": 8080}[role] + installed.offset
    eventually(lambda: not _free(port), within=10)
    return [*run, "-s", "reload"]


@contextmanager
def installation(home: Path) -> Iterator[Installation]:
    """Behind nginx: ingest and the portal on Unix sockets, the registry on a loopback port."""
    installed = Installation(home, {"MSGSYS_RETRY_SECONDS": "2"})
    installed.settings |= {"MSGSYS_VISIBILITY_TIMEOUT": "6", "MSGSYS_HANDSHAKE_TIMEOUT": "2"}
    try:
        installed.up("--no-demo")
        installed.stop("up")
        start_valkey(installed)
        installed.settings["MSGSYS_INGEST_BEHIND_PROXY"] = f"unix:{socket_of(installed)}"
        installed.settings["MSGSYS_PORTAL_BEHIND_PROXY"] = f"unix:{installed.home}/portal.sock"
        installed.settings["MSGSYS_REGISTRY_BEHIND_PROXY"] = f"127.0.0.1:{loopback_port(installed)}"
        manage = [sys.executable, str(ROOT / "manage.py")]
        for role in ("registry", "ingest", "worker", "portal"):
            installed.spawn(role, *manage, "serve", role)
        reload = [start(installed, role) for role in ("registry", "ingest", "portal")]
        watch(installed, *manage, "on_pki_change", "--", "sh", "-c", " && ".join(map(" ".join, reload)))
        for role, certificate_of in (("ingest", "admin"), ("registry", "admin"), ("portal", "")):
            eventually(lambda: is_healthy(installed, role, certificate_of), within=30)  # noqa: B023  called at once
        yield installed
    finally:
        installed.stop_all()


def watch(installed: Installation, *watcher: str) -> None:
    """Start the process that reloads nginx, and wait until it has done so once: from then on it sees each change."""
    log = installed.home / "watcher.test.log"
    before = log.stat().st_size if log.exists() else 0
    installed.spawn("watcher", *watcher)
    eventually(lambda: b"the command was run" in log.read_bytes()[before:], within=30)


def socket_of(installed: Installation) -> Path:
    return installed.home / "ingest.sock"


def loopback_port(installed: Installation) -> int:
    return 9201 + installed.offset


def is_healthy(installed: Installation, role: str, certificate_of: str = "admin") -> bool:
    with installed.session(certificate_of) as session:
        return session.get(f"{installed.ready[role]}/healthz", timeout=5).status_code == 200


def refusal(answer: requests.Response) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


def escaped(file: str) -> str:
    """Return the first certificate of a file as nginx passes it on."""
    first = Path(file).read_text().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    return quote(first, safe="")


def client_of(behind: Installation, uid: str) -> str:
    with behind.staff() as staff:
        found = eventually(lambda: [one for one in behind.messages(staff) if one["id"] == uid], within=20)
    return found[0]["client"]
