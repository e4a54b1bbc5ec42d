"""One machine's processes as `up` runs them: their ports, addresses, and when they are ready."""

import http.client
import json
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings

from certs_app.files import write_secret
from certs_app.tls import TlsFiles, client_context
from deploy import valkey
from deploy.home import Administrator
from deploy.supervisor import Child
from msgsys_project.settings.base import behind_proxy, ports

ROLES = ("registry", "ingest", "worker", "jobs", "portal")
SERVING = ("registry", "ingest", "portal")
# Whoever takes messages in stops first, then whoever hands them on, then whoever keeps them.
STOP_ORDER = ((("ingest", "portal", "jobs", "worker"), 10.0), (("registry",), 2.5), (("valkey",), 2.0))
READY_WITHIN = 60.0


def base_url(role: str) -> str:
    return f"https://localhost:{ports(role)[0]}"


def metrics_url(role: str) -> str:
    return f"https://localhost:{ports(role)[1]}/metrics"


def all_ports(*, embedded_valkey: bool) -> dict[str, int]:
    """Return every port by who uses it."""
    # Behind a terminator, it is the terminator that listens on the role's port.
    found = {role: ports(role)[0] for role in SERVING if not behind_proxy(role)}
    found |= {f"{role} metrics": ports(role)[1] for role in ROLES}
    return {**found, "valkey": valkey.port()} if embedded_valkey else found


def valkey_child(logs: Path) -> Child:
    """Return the embedded Valkey. Raises NoServer."""
    # It prints its log.
    return Child("valkey", valkey.command(), {}, logs / "valkey.log", logs / "valkey.log")


def role_children(logs: Path) -> list[Child]:
    return [_role_child(role, logs) for role in ROLES]


def _role_child(role: str, logs: Path) -> Child:
    log = logs / f"{role}.log"
    command = [sys.executable, "-X", "utf8", str(settings.BASE_DIR / "manage.py"), "serve", role]
    environment = {
        "MSGSYS_HOME": str(settings.HOME),
        "MSGSYS_PORT_OFFSET": str(settings.PORT_OFFSET),
        "MSGSYS_SUPERVISED": "1",
        "MSGSYS_LOG_FILE": str(log),
    }
    return Child(role, command, environment, log, logs / f"{role}.stderr.log")


def wait_ready(give_up: Callable[[], bool]) -> list[str]:
    """Wait until every role says it is ready, or `give_up` does; return those that are not."""
    context = client_context(_admin_files())
    deadline = time.monotonic() + READY_WITHIN
    waiting = list(ROLES)
    while time.monotonic() < deadline and not give_up():
        waiting = [role for role in waiting if not _ready(role, context)]
        if not waiting:
            break
        time.sleep(0.1)
    return waiting


def _admin_files() -> TlsFiles:
    folder = settings.CERTIFICATES_DIR
    return TlsFiles(folder / "admin.crt", folder / "admin.key", settings.CA_FILE, settings.CRL_FILE)


def _ready(role: str, context: ssl.SSLContext) -> bool:
    port, metrics_port = ports(role)
    own_port = port and not behind_proxy(role)
    if own_port and not _answers(port, "/healthz", context):
        return False
    return _answers(metrics_port, "/readyz", context)


def _answers(port: int, path: str, context: ssl.SSLContext) -> bool:
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def write_ready_file(file: Path, children: list[Child], administrator: Administrator) -> None:
    """Write what a script or a test needs to use the system: private, because it holds passwords."""
    folder: Path = settings.CERTIFICATES_DIR
    document: dict[str, Any] = {role: base_url(role) for role in SERVING}
    document["ca"] = str(settings.CA_FILE)
    for key, stem in (("client", "demo"), ("worker", "worker"), ("admin", "admin"), ("prometheus", "prometheus")):
        document[f"{key}_cert"] = str(folder / f"{stem}.crt")
        document[f"{key}_key"] = str(folder / f"{stem}.key")
    database = settings.DATABASES["default"]
    document |= {
        "admin_user": administrator.user,
        "admin_password": administrator.password or None,
        "redis_url": settings.REDIS_URL,
        "database": str(database["NAME"]) if database["ENGINE"].endswith("sqlite3") else database["NAME"],
        "metrics": {role: metrics_url(role) for role in ROLES},
        "pids": {child.name: child.pid for child in children},
    }
    write_secret(file, json.dumps(document, indent=1).encode(), replace=True)
