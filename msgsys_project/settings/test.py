"""Tests: everything in one process, under a home of its own that tests/conftest.py makes and removes."""

import os
import tempfile
from typing import Any

# One for each worker that runs tests beside others: it inherits the environment of the process that started it.
if "PYTEST_XDIST_WORKER" in os.environ or "MSGSYS_HOME" not in os.environ:
    os.environ["MSGSYS_HOME"] = tempfile.mkdtemp(prefix="msgsys-test-")
os.environ.setdefault("SECRET_KEY", "only for tests, which sign nothing that lasts")
os.environ.setdefault("JWT_SECRET", "only for tests, which sign nothing that lasts")

from msgsys_project.settings import base, ingest, registry, worker
from msgsys_project.settings.ledger import *  # noqa: F403  settings modules are read by Django as one namespace
from msgsys_project.settings.operator import *  # noqa: F403  settings modules are read by Django as one namespace
from msgsys_project.settings.registry_api import *  # noqa: F403  as above

ROLE = "operator"
# A file for what the CA does is for people's commands. In tests it stayed open when Django was set up again.
LOGGING: dict[str, Any] = base.LOGGING
# The fastest hasher: tests make many users and crack none.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
RATE_LIMIT_PER_MINUTE = 0
RATE_LIMITS_FILE = None
WAIT_REPLICAS = 0
WAIT_REPLICAS_MS: int = ingest.WAIT_REPLICAS_MS
SERVER_CERTIFICATE = registry.SERVER_CERTIFICATE
RETRY_SECONDS: int = worker.RETRY_SECONDS
VISIBILITY_TIMEOUT: int = worker.VISIBILITY_TIMEOUT
DELIVERY_CONNECTIONS: int = worker.DELIVERY_CONNECTIONS
CLIENT_CERTIFICATE = ingest.CLIENT_CERTIFICATE
