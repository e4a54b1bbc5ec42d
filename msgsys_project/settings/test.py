"""Tests: everything in one process, under a home of its own that tests/conftest.py makes and removes."""

import os
import tempfile

os.environ.setdefault("MSGSYS_HOME", tempfile.mkdtemp(prefix="msgsys-test-"))
os.environ.setdefault("SECRET_KEY", "only for tests, which sign nothing that lasts")
os.environ.setdefault("JWT_SECRET", "only for tests, which sign nothing that lasts")

from msgsys_project.settings import ingest, registry, worker
from msgsys_project.settings.operator import *  # noqa: F403  settings modules are read by Django as one namespace
from msgsys_project.settings.operator import INSTALLED_APPS
from msgsys_project.settings.registry_api import *  # noqa: F403  as above

ROLE = "operator"
INSTALLED_APPS = [*INSTALLED_APPS, "ingest"]
# The fastest hasher: tests make many users and crack none.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
RATE_LIMIT_PER_MINUTE = 0
SERVER_CERTIFICATE = registry.SERVER_CERTIFICATE
RETRY_SECONDS: int = worker.RETRY_SECONDS
VISIBILITY_TIMEOUT: int = worker.VISIBILITY_TIMEOUT
CLIENT_CERTIFICATE = ingest.CLIENT_CERTIFICATE
