"""Ingest: its own certificates, the registry's public sealing key, the queue. No database, no data key."""

from pathlib import Path

from msgsys_project import environment as env
from msgsys_project.settings.base import *  # noqa: F403  settings modules are read by Django as one namespace
from msgsys_project.settings.base import behind_proxy, certificate, ports, proxy_token, rest_framework
from msgsys_project.settings.ledger import *  # noqa: F403  as above
from msgsys_project.settings.queue import *  # noqa: F403  as above
from msgsys_project.settings.registry_api import *  # noqa: F403  as above

ROLE = "ingest"
PORT, METRICS_PORT = ports(ROLE)
BEHIND_PROXY, PROXY_TOKEN = behind_proxy(ROLE), proxy_token(ROLE)
ROOT_URLCONF = "msgsys_project.urls.ingest"
ASGI_APPLICATION = "ingest.asgi.application"
READINESS = {"queue": "ingest.durability.check_ready", "ledger": "ingest.ledger.check_writable"}
# Begun beside the service, once for each home.
BESIDE = ["ingest.balance.start"]
INSTALLED_APPS = ["rest_framework", "ingest", "monitoring", "deploy"]
MIDDLEWARE = [
    "certs_app.middleware.AllowedMethods",
    "certs_app.middleware.PeerRequired",
]
DATABASES: dict[str, object] = {}
REST_FRAMEWORK = rest_framework()

SERVER_CERTIFICATE = certificate("ingest")
CLIENT_CERTIFICATE = certificate("ingest-client")
RATE_LIMIT_PER_MINUTE = env.integer(
    "MSGSYS_RATE_LIMIT_PER_MINUTE",
    60_000,
    "Messages one client may submit per minute; 0 switches the limit off.",
    maximum=1_000_000_000,
)
_limits = env.text(
    "MSGSYS_RATE_LIMITS_FILE",
    "",
    'Clients with another limit: a JSON file such as {"alice": 600}, 0 for no limit; read again when it changes.',
)
RATE_LIMITS_FILE = Path(_limits).expanduser() if _limits else None
WAIT_REPLICAS = env.integer(
    "MSGSYS_WAIT_REPLICAS",
    0,
    "Replicas of the queue that must have a message before it is accepted; 0: the queue's own server is enough.",
    maximum=100,
)
WAIT_REPLICAS_MS = env.integer("MSGSYS_WAIT_REPLICAS_MS", 500, "Milliseconds to wait for them.", minimum=1, maximum=900)
