"""A misconfiguration is told at the start, with its id and what to do."""

import pytest
from django.core.checks import run_checks

from ingest.checks import (
    ledger_folder,
    queue_certificates,
    queue_url,
    registry_url,
    retry_period,
    sealing_key,
    sentinel_login,
)


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
        ("redis://localhost:6379/zero", ["msgsys.E301"]),
        ("redis://localhost:99999/0", ["msgsys.E301"]),
        ("redis://localhost;redis://127.0.0.1", ["msgsys.E301"]),
        ("sentinel://localhost;redis://127.0.0.1", ["msgsys.E301"]),
        ("sentinel://localhost;sentinel://", ["msgsys.E301"]),
        ("sentinel://:secret@localhost:26379;sentinel://10.0.0.2:26379", ["msgsys.E302"]),
        ("sentinel://:secret@localhost;sentinel://127.0.0.1/0", ["msgsys.E310"]),
    ],
)
def test_the_queue_must_be_redis_and_off_this_machine_tls(url, expected, settings):
    settings.REDIS_URL, settings.REDIS_PASSWORD = url, ""
    assert ids(queue_url) == expected


def test_sentinels_off_this_machine_are_reached_by_tls_and_their_master_has_a_name(settings, people):
    settings.REDIS_URL = "sentinel://:secret@10.0.0.1;sentinel://10.0.0.2"
    settings.REDIS_CA_FILE, settings.REDIS_SENTINEL_MASTER = str(people.folder / "ca.crt"), "msgsys"
    assert ids(queue_url) == ids(queue_certificates) == []


@pytest.mark.parametrize(
    ("url", "user", "password", "expected"),
    [
        ("sentinel://localhost", "", "", []),
        ("sentinel://localhost", "", "secret", []),
        ("sentinel://localhost", "msgsys", "secret", []),
        ("sentinel://localhost", "msgsys", "", ["msgsys.E330"]),
        ("redis://localhost", "", "secret", ["msgsys.E330"]),
        ("redis://localhost", "msgsys", "secret", ["msgsys.E330"]),
    ],
)
def test_what_is_set_for_sentinels_must_be_of_use(url, user, password, expected, settings):
    settings.REDIS_URL = url
    settings.REDIS_SENTINEL_USER, settings.REDIS_SENTINEL_PASSWORD = user, password
    assert ids(sentinel_login) == expected


def test_files_for_tls_to_redis_must_be_used_and_usable(settings, people):
    people.issue("ingest", "ingest", usage="client")
    settings.REDIS_CA_FILE = str(people.folder / "ca.crt")
    settings.REDIS_CERTIFICATE_FILE = str(people.folder / "ingest-client.crt")
    settings.REDIS_KEY_FILE = str(people.folder / "ingest-client.key")
    settings.REDIS_URL = "redis://localhost:6379/0"
    assert ids(queue_certificates) == ["msgsys.E323"]
    settings.REDIS_URL = "rediss://localhost:6379/0"
    assert ids(queue_certificates) == []
    for wrong in ("/missing.pem", settings.REDIS_KEY_FILE):
        settings.REDIS_CA_FILE = wrong
        assert ids(queue_certificates) == ["msgsys.E324"]
    settings.REDIS_CA_FILE, settings.REDIS_KEY_FILE = "", settings.REDIS_CERTIFICATE_FILE
    assert ids(queue_certificates) == ["msgsys.E324"]


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


def test_a_ledger_that_cannot_be_written_is_named(settings, tmp_path):
    settings.ROLE = "ingest"
    settings.LEDGER_DIR = tmp_path / "not" / "there" / "yet"
    assert ledger_folder(None) == []
    (tmp_path / "file").write_text("in the way")
    settings.LEDGER_DIR = tmp_path / "file" / "ledger"
    (error,) = ledger_folder(None)
    assert (error.id, str(tmp_path / "file") in error.msg) == ("msgsys.E322", True)
    settings.ROLE = "worker"
    assert ledger_folder(None) == []
