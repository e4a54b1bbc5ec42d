"""The registry and its jobs: the database, the data keys, the sealing key, the issuing CA. No queue."""

import os

from msgsys_project import environment as env
from msgsys_project.settings.base import *  # noqa: F403  settings modules are read by Django as one namespace
from msgsys_project.settings.base import SECRETS_DIR, certificate, ports, rest_framework
from msgsys_project.settings.database import *  # noqa: F403  as above

# Set by `serve`: the jobs process does its periodic work under these settings, too.
ROLE = "jobs" if os.environ.get("MSGSYS_ROLE") == "jobs" else "registry"
PORT, METRICS_PORT = ports("jobs" if ROLE == "jobs" else "registry")
ROOT_URLCONF = "msgsys_project.urls.registry"
ASGI_APPLICATION = "msgsys_project.asgi.application"
READINESS = {"database": "registry.readiness.database"}
INSTALLED_APPS = ["rest_framework", "certs_app", "registry", "monitoring", "deploy"]
MIDDLEWARE = [
    "certs_app.middleware.AllowedMethods",
    "certs_app.middleware.PeerRequired",
]
REST_FRAMEWORK = rest_framework()

SERVER_CERTIFICATE = certificate("jobs" if ROLE == "jobs" else "registry")

CA_KEYS_DIR = env.path("MSGSYS_CA_KEYS_DIR", SECRETS_DIR / "ca", "Private keys of the root and the issuing CA.")
SEALING_KEY_FILE = env.path("MSGSYS_SEALING_KEY_FILE", SECRETS_DIR / "sealing.json", "Keys that open envelopes.")
CRL_HOURS = env.integer("MSGSYS_CRL_HOURS", 48, "Hours a revocation list is valid.", minimum=2, maximum=240)
CRL_REISSUE_MINUTES = env.integer(
    "MSGSYS_CRL_REISSUE_MINUTES", 60, "Minutes after which the jobs process issues a new revocation list.", minimum=1
)
