from types import SimpleNamespace

import pytest
from django.core.checks import run_checks

from registry import checks


def problems(tag):
    return [error.id for error in run_checks(tags=[tag]) if error.id.startswith("msgsys.E20")]


@pytest.fixture
def registry_role(settings):
    settings.ROLE = "registry"
    return settings


def test_good_keys_pass(registry_role):
    assert problems("keys") == []


@pytest.mark.parametrize("content", [None, "{}", "damaged"])
def test_a_key_ring_that_does_not_load_is_e201(registry_role, tmp_path, content):
    registry_role.KEY_FILE = tmp_path / "keyring.json"
    if content is not None:
        registry_role.KEY_FILE.write_text(content)
        registry_role.KEY_FILE.chmod(0o600)
    assert problems("keys") == ["msgsys.E201"]


@pytest.mark.parametrize("content", [None, "{}", "[]", "damaged", '{"primary": 1, "keys": {"1": "AAAA"}}'])
def test_sealing_keys_that_do_not_load_are_e202(registry_role, tmp_path, content):
    registry_role.SEALING_KEY_FILE = tmp_path / "sealing.json"
    if content is not None:
        registry_role.SEALING_KEY_FILE.write_text(content)
        registry_role.SEALING_KEY_FILE.chmod(0o600)
    assert problems("keys") == ["msgsys.E202"]


def test_the_portal_needs_no_sealing_key(registry_role):
    registry_role.ROLE = "portal"
    del registry_role.SEALING_KEY_FILE
    assert problems("keys") == []


def test_an_operator_may_start_before_there_are_keys(settings, tmp_path):
    settings.ROLE = "operator"
    settings.KEY_FILE = settings.SEALING_KEY_FILE = tmp_path / "missing"
    assert problems("keys") == []


def test_a_database_without_column_types_is_e203(monkeypatch):
    monkeypatch.setattr(checks, "connection", SimpleNamespace(vendor="postgresql"))
    assert problems("database_engine") == ["msgsys.E203"]


def test_this_database_is_one_of_those_supported():
    assert problems("database_engine") == []


def test_each_problem_says_what_to_do(registry_role, tmp_path, monkeypatch):
    registry_role.KEY_FILE = registry_role.SEALING_KEY_FILE = tmp_path / "missing"
    monkeypatch.setattr(checks, "connection", SimpleNamespace(vendor="oracle"))
    errors = [*run_checks(tags=["keys"]), *run_checks(tags=["database_engine"])]
    ours = [error for error in errors if error.id.startswith("msgsys.E20")]
    assert len(ours) == 3
    assert all(error.hint for error in ours)
