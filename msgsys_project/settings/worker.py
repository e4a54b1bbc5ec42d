"""The worker: its client certificate and the queue. No database, no key that opens a message."""

from msgsys_project import environment as env
from msgsys_project.settings.base import *  # noqa: F403  settings modules are read by Django as one namespace
from msgsys_project.settings.base import certificate, ports
from msgsys_project.settings.queue import *  # noqa: F403  as above
from msgsys_project.settings.registry_api import *  # noqa: F403  as above

ROLE = "worker"
PORT, METRICS_PORT = ports(ROLE)
READINESS = {"queue": "ingest.durability.check_ready", "worker": "ingest.progress.check_consuming"}
INSTALLED_APPS = ["ingest", "monitoring", "deploy"]
MIDDLEWARE: list[str] = []
DATABASES: dict[str, object] = {}

SERVER_CERTIFICATE = certificate("worker-server")
CLIENT_CERTIFICATE = certificate("worker")
RETRY_SECONDS = env.integer("MSGSYS_RETRY_SECONDS", 30, "Seconds between tries while the registry is away.", minimum=1)
DELIVERY_CONNECTIONS = env.integer(
    "MSGSYS_DELIVERY_CONNECTIONS", 4, "Batches that one worker posts to the registry at a time.", minimum=1
)
VISIBILITY_TIMEOUT = env.integer(
    "MSGSYS_VISIBILITY_TIMEOUT",
    120,
    "Seconds after which what a worker holds is given to another one; more than twice MSGSYS_RETRY_SECONDS.",
    minimum=2,
)
