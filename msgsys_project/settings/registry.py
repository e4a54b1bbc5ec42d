"""The registry and its jobs: the database, the data keys, the sealing key, the issuing CA. No queue."""

import os
from pathlib import Path

from msgsys_project import environment as env
from msgsys_project.settings.base import *  # noqa: F403  settings modules are read by Django as one namespace
from msgsys_project.settings.base import SECRETS_DIR, behind_proxy, certificate, ports, proxy_token, rest_framework
from msgsys_project.settings.database import *  # noqa: F403  as above
from msgsys_project.settings.ledger import LEDGER_DAYS as LEDGER_DAYS

# Set by `serve`: the jobs process does its periodic work under these settings, too.
ROLE = "jobs" if os.environ.get("MSGSYS_ROLE") == "jobs" else "registry"
PORT, METRICS_PORT = ports("jobs" if ROLE == "jobs" else "registry")
BEHIND_PROXY, PROXY_TOKEN = behind_proxy("registry"), proxy_token("registry")
ROOT_URLCONF = "msgsys_project.urls.registry"
ASGI_APPLICATION = "msgsys_project.asgi.application"
# Every message comes by here.
DIRECT_ROUTES = {"/register": "registry.views.register"}
READINESS = {"database": "registry.readiness.database"}
INSTALLED_APPS = ["rest_framework", "certs_app", "registry", "monitoring", "deploy"]
MIDDLEWARE = [
    "certs_app.middleware.AllowedMethods",
    "certs_app.middleware.PeerRequired",
    "certs_app.uses.UseNoted",
]
REST_FRAMEWORK = rest_framework()

SERVER_CERTIFICATE = certificate("jobs" if ROLE == "jobs" else "registry")
CA = "certs_app.local_ca.LocalCa"
CA_LISTS = "certs_app.local_ca.LocalLists"
# On one machine the operator's own lie here, too; whoever moves them away renews them by /renew_cert.
KEPT_CERTIFICATES = [certificate(stem) for stem in ("admin", "prometheus", "demo")] if ROLE == "jobs" else []
# What a certificate was used for lies above the CA, which may not import it.
CERTIFICATE_ACTIVITY = "registry.activity.of_certificate"

CA_KEYS_DIR = env.path("MSGSYS_CA_KEYS_DIR", SECRETS_DIR / "ca", "Private keys of the root and the issuing CAs.")
ROOT_KEY_PASSPHRASE = env.secret(
    "ROOT_KEY_PASSPHRASE",
    SECRETS_DIR / "root_key_passphrase",
    "Encrypts the root CA's key. Empty: it is not encrypted.",
)
SEALING_KEY_FILE = env.path("MSGSYS_SEALING_KEY_FILE", SECRETS_DIR / "sealing.json", "Keys that open envelopes.")
CRL_HOURS = env.integer("MSGSYS_CRL_HOURS", 48, "Hours a revocation list is valid.", minimum=2, maximum=240)
CRL_REISSUE_MINUTES = env.integer(
    "MSGSYS_CRL_REISSUE_MINUTES",
    60,
    "Minutes after which the jobs process issues a new revocation list.",
    minimum=1,
    maximum=60,
)
RETENTION_DAYS = env.integer(
    "MSGSYS_RETENTION_DAYS",
    0,
    "Days after their receipt for which messages are kept, at least 2; 0: for ever.",
    maximum=36_500,
)
_retention = env.text(
    "MSGSYS_RETENTION_FILE",
    "",
    'Clients whose messages are kept for another time: a JSON file such as {"alice": 90}, in days, 0 for ever.',
)
RETENTION_FILE = Path(_retention).expanduser() if _retention else None
