"""A misconfiguration is told at the start, with its id and what to do."""

import pytest
from django.core.checks import run_checks

from ingest.checks import queue_url, registry_url, retry_period, sealing_key


def ids(check) -> list[str]:
    return [message.id for message in check(None)]


@pytest.fixture(autouse=True)
def _as_ingest(settings):
    settings.ROLE = "ingest"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost", ["msgsys.E301"]),
        ("", ["msgsys.E301"]),
        ("redis://redis.example:6379/0", ["msgsys.E302"]),
        ("redis://localhost:6379/0", ["msgsys.W303"]),
        ("rediss://:secret@redis.example:6379/0", []),
    ],
)
def test_the_queue_must_be_redis_and_off_this_machine_tls(url, expected, settings):
    settings.REDIS_URL, settings.REDIS_PASSWORD = url, ""
    assert ids(queue_url) == expected


def test_the_visibility_timeout_must_outlast_two_retry_periods(settings):
    settings.VISIBILITY_TIMEOUT, settings.RETRY_SECONDS = 60, 30
    assert ids(retry_period) == ["msgsys.E304"]
    settings.VISIBILITY_TIMEOUT = 61
    assert ids(retry_period) == []


def test_ingest_must_have_a_key_to_seal_to(settings, tmp_path):
    assert ids(sealing_key) == []
    settings.SEALING_PUBLIC_FILE = tmp_path / "missing.json"
    assert ids(sealing_key) == ["msgsys.E305"]


def test_the_registry_is_reached_by_https_only(settings):
    settings.REGISTRY_URL = "http://registry.example:8000"
    assert ids(registry_url) == ["msgsys.E306"]


def test_all_checks_are_registered(settings):
    settings.REGISTRY_URL = "http://registry.example:8000"
    assert "msgsys.E306" in [message.id for message in run_checks(tags=["urls"])]
