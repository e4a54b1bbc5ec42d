"""Ingest: its own certificates, the registry's public sealing key, the queue. No database, no data key."""

from msgsys_project import environment as env
from msgsys_project.settings.base import *  # noqa: F403  settings modules are read by Django as one namespace
from msgsys_project.settings.base import certificate, ports, rest_framework
from msgsys_project.settings.queue import *  # noqa: F403  as above
from msgsys_project.settings.registry_api import *  # noqa: F403  as above

ROLE = "ingest"
PORT, METRICS_PORT = ports(ROLE)
ROOT_URLCONF = "msgsys_project.urls.ingest"
ASGI_APPLICATION = "ingest.asgi.application"
READINESS = {"queue": "ingest.queue.check_reachable"}
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
    "MSGSYS_RATE_LIMIT_PER_MINUTE", 60_000, "Messages one client may submit per minute; 0 switches the limit off."
)
