"""Deny by default, and no process can name what it must not hold."""

import json
import os
import subprocess
import sys

import pytest
from django.urls import URLPattern, get_resolver

from certs_app.identity import ROLES
from msgsys_project.environment import BASE_DIR

NAMES = [
    "DATABASES",
    "KEY_FILE",
    "SEALING_KEY_FILE",
    "CA_KEYS_DIR",
    "REDIS_URL",
    "SECRET_KEY",
    "SIMPLE_JWT",
    "PROXY_TOKEN",
]
HOLDS = {
    "ingest": {"REDIS_URL", "PROXY_TOKEN"},
    "worker": {"REDIS_URL"},
    "registry": {"PROXY_TOKEN", "DATABASES", "KEY_FILE", "SEALING_KEY_FILE", "CA_KEYS_DIR"},
    "portal": {"PROXY_TOKEN", "DATABASES", "KEY_FILE", "SECRET_KEY", "SIMPLE_JWT"},
}


def under(role: str, script: str) -> "subprocess.CompletedProcess[str]":
    """Run a script under a role's settings, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "SYSTEMROOT")}
    environment |= {"DJANGO_SETTINGS_MODULE": f"msgsys_project.settings.{role}", "MSGSYS_ENV_FILE": os.devnull}
    environment |= {f"MSGSYS_{name.upper()}_PROXY_TOKEN": name for name in ("ingest", "registry", "portal")}
    environment |= {"SECRET_KEY": "x", "MSGSYS_HOME": os.devnull + "-none"}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=BASE_DIR, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("role", HOLDS)
def test_a_role_holds_what_the_design_gives_it_and_nothing_else(role):
    script = (
        "import json, django; from django.conf import settings; django.setup(); found = vars(settings._wrapped);"
        f"print(json.dumps([name for name in {NAMES!r} if found.get(name)]))"
    )
    done = under(role, script)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == HOLDS[role]


@pytest.mark.parametrize("role", ["ingest", "registry", "portal"])
def test_a_role_holds_the_token_of_its_own_terminator_only(role):
    done = under(role, "import django; from django.conf import settings; django.setup(); print(settings.PROXY_TOKEN)")
    assert done.stdout.strip() == role


@pytest.mark.parametrize("role", ["ingest", "worker"])
def test_ingest_and_the_worker_cannot_import_the_key_ring(role):
    done = under(role, "import django; django.setup(); import registry.keyring")
    assert done.returncode != 0
    assert "holds no data keys" in done.stderr


@pytest.mark.parametrize("role", ["ingest", "worker"])
def test_ingest_and_the_worker_have_no_database(role):
    done = under(role, "import django; django.setup(); from django.db import connection; connection.cursor()")
    assert done.returncode != 0
    assert "ImproperlyConfigured" in done.stderr


def routes(role: str) -> list[URLPattern]:
    return list(get_resolver(f"msgsys_project.urls.{role}").url_patterns)


@pytest.mark.parametrize("role", ["ingest", "registry"])
def test_every_route_says_which_roles_may_call_it(role):
    for route in routes(role):
        allowed = getattr(route.callback, "allowed_roles", frozenset())
        assert allowed, f"{route.pattern} of {role} says nothing, so nobody could call it"
        assert allowed <= set(ROLES)


def test_only_health_and_what_is_public_or_ones_own_is_open_to_every_role():
    everyone = {
        str(route.pattern)
        for role in ("ingest", "registry")
        for route in routes(role)
        if route.callback.allowed_roles == frozenset(ROLES)
    }
    public, own = {"ca.pem", "crl.pem", "crl.der"}, {"renew_cert", "certificate_in_use"}
    assert everyone == {"healthz", "readyz"} | public | own


def test_the_accept_path_admits_the_same_roles_as_its_routes():
    from ingest.asgi import ALLOWED_ROLES

    for route in routes("ingest"):
        if str(route.pattern).startswith("submit"):
            assert route.callback.allowed_roles == ALLOWED_ROLES


def test_the_worker_tries_every_thirty_seconds_and_redelivers_later_than_that():
    from msgsys_project.settings import worker

    assert worker.RETRY_SECONDS == 30
    assert worker.VISIBILITY_TIMEOUT > 2 * worker.RETRY_SECONDS
