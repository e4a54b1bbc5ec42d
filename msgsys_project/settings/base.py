"""What every role shares. A role's own module adds what that role may hold, and nothing else."""

from pathlib import Path
from typing import Any

from msgsys_project import environment as env
from msgsys_project import logs

BASE_DIR = env.BASE_DIR
HOME = env.HOME

DEBUG = False
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ALLOWED_HOSTS = env.names(
    "MSGSYS_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]", "Host names the servers answer to, separated by commas."
)
LOGGING = logs.configuration(
    env.text("MSGSYS_LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR."),
    env.text("MSGSYS_LOG_FILE", "", "File for this one process's log, rotated at 10 MB. Empty: standard error."),
)

# What one request may carry: a batch of 1,000 messages of ordinary size; everything larger is refused with 413.
MAX_BODY_BYTES = env.integer(
    "MSGSYS_MAX_BODY_BYTES", 4 * 1024 * 1024, "Largest request body accepted, in bytes.", minimum=65536
)
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
# What goes past Django's handler (certs_app.direct): the address, and the function that does the work.
DIRECT_ROUTES: dict[str, str] = {}
FILE_UPLOAD_HANDLERS: list[str] = []
APPEND_SLASH = False

TRUST_DOMAIN = env.text("MSGSYS_TRUST_DOMAIN", "msgsys", "Trust domain inside certificate identities (SPIFFE).")

PKI_DIR = env.path("MSGSYS_PKI_DIR", HOME / "pki", "CA certificates, CRLs and issued certificates.")
CA_FILE = PKI_DIR / "ca.crt"
CRL_FILE = PKI_DIR / "crl.pem"
CERTIFICATES_DIR = PKI_DIR / "certs"
CRL_FETCH_SECONDS = env.integer(
    "MSGSYS_CRL_FETCH_SECONDS",
    30,
    "Seconds between looks for newer revocation lists at the registry.",
    minimum=1,
    maximum=3600,
)
# Whom this process asks for its own certificates: the registry, or, beside the CA's keys, the CA itself.
CA = "certs_app.ca_client.RemoteCa"
CA_LISTS = "certs_app.fetching.FetchedLists"
# Certificates kept valid besides this process' own.
KEPT_CERTIFICATES: list[dict[str, Path]] = []
SECRETS_DIR = env.path("MSGSYS_SECRETS_DIR", HOME / "secrets", "Key files; readable by their owner only.")
# The public half of the registry's sealing key: all that ingest needs to seal.
SEALING_PUBLIC_FILE = env.path(
    "MSGSYS_SEALING_PUBLIC_FILE", PKI_DIR / "sealing.json", "The registry's sealing keys, public."
)

HOST = env.text("MSGSYS_HOST", "127.0.0.1", "Address the servers listen on.")
PORT_OFFSET = env.integer("MSGSYS_PORT_OFFSET", 0, "Added to every port, to run several side by side.", maximum=50000)
HANDSHAKE_TIMEOUT = env.integer("MSGSYS_HANDSHAKE_TIMEOUT", 5, "Seconds a TLS handshake may take.", minimum=1)
REQUEST_TIMEOUT = env.integer("MSGSYS_REQUEST_TIMEOUT", 20, "Seconds a client may take to send a request.", minimum=1)
KEEP_ALIVE = env.integer("MSGSYS_KEEP_ALIVE", 60, "Seconds an idle connection is kept.", minimum=1)
MAX_CONNECTIONS = env.integer("MSGSYS_MAX_CONNECTIONS", 2000, "Connections one server process holds.", minimum=10)
MAX_CONCURRENT_REQUESTS = env.integer(
    "MSGSYS_MAX_CONCURRENT_REQUESTS",
    8,
    "Requests Django works on at once in one process, a thread each; beyond, 503 overloaded.",
    minimum=1,
    maximum=1000,
)

_PORTS = {
    "ingest": (8001, 9101),
    "worker": (0, 9100),
    "registry": (8000, 9102),
    "portal": (8080, 9103),
    "jobs": (0, 9104),
}


def ports(role: str) -> tuple[int, int]:
    """Return the port the role serves on (0: none) and its metrics port."""
    default_port, default_metrics = _PORTS[role]
    port = 0
    if default_port:
        port = PORT_OFFSET + env.integer(
            f"MSGSYS_{role.upper()}_PORT", default_port, f"Port of the {role}.", minimum=1, maximum=65535
        )
    metrics = PORT_OFFSET + env.integer(
        f"MSGSYS_{role.upper()}_METRICS_PORT", default_metrics, f"Metrics port of the {role}.", minimum=1, maximum=65535
    )
    return port, metrics


PROXY_WORKERS = env.integer(
    "MSGSYS_PROXY_WORKERS",
    1,
    "Processes that serve a role behind a TLS terminator (Unix socket).",
    minimum=1,
    maximum=32,
)


def behind_proxy(role: str) -> env.LocalAddress | None:
    """Return where the role listens for a TLS terminator; None when it speaks TLS itself."""
    return env.local_address(
        f"MSGSYS_{role.upper()}_BEHIND_PROXY",
        f"Where the {role} listens for a TLS terminator such as nginx: unix:/run/msgsys/{role}.sock, or "
        "127.0.0.1:PORT (the one way on Windows). Empty: the process speaks TLS itself.",
    )


def proxy_token(role: str) -> str:
    """Return what the role's TLS terminator shows to be believed."""
    return env.secret(
        f"MSGSYS_{role.upper()}_PROXY_TOKEN",
        SECRETS_DIR / f"{role}_proxy_token",
        f"What a TLS terminator says first when it tells the {role} who is calling.",
    )


def certificate(stem: str) -> dict[str, Path]:
    """Return the files of one of this process's certificates: {"certificate", "key"}, named as `issue_cert` does."""
    variable = f"MSGSYS_{stem.upper().replace('-', '_')}"
    return {
        "certificate": env.path(
            f"{variable}_CERT", CERTIFICATES_DIR / f"{stem}.crt", f"Certificate {stem}, with its issuer."
        ),
        "key": env.path(f"{variable}_KEY", CERTIFICATES_DIR / f"{stem}.key", f"Private key of certificate {stem}."),
    }


def rest_framework(**changes: Any) -> dict[str, Any]:
    """Return REST_FRAMEWORK settings: JSON only, problem details, denied unless a view says otherwise."""
    return {
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "DEFAULT_PERMISSION_CLASSES": [],
        "UNAUTHENTICATED_USER": None,
        "EXCEPTION_HANDLER": "certs_app.problems.exception_handler",
        **changes,
    }
