"""What the database says of itself when a role starts. On MariaDB the session really is set wrong."""

import pytest
from django.core.checks import run_checks
from django.db import connection

from registry import database_server
from registry.database_server import Facts, judge

on_mariadb = pytest.mark.skipif("connection.vendor != 'mysql'")
GOOD = {
    "sql_mode": "STRICT_ALL_TABLES",
    "tx_isolation": "READ-COMMITTED",
    "max_allowed_packet": str(16 * 1024 * 1024),
    "character_set_connection": "utf8mb4",
    "character_set_database": "utf8mb4",
}


@pytest.fixture
def problems(settings, transactional_db):
    """Return the ids of what is found at a registry's start, after statements that spoil its session."""
    settings.ROLE = "registry"

    def find(*statements):
        connection.close()
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        try:
            return [problem.id for problem in run_checks(tags=["database_server"])]
        finally:
            connection.close()

    return find


def test_the_database_of_the_tests_is_as_it_should_be(problems):
    assert problems() == []


@on_mariadb
@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("SET SESSION sql_mode = ''", ["msgsys.E222"]),
        ("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", ["msgsys.E223"]),
        ("SET NAMES latin1", ["msgsys.E224"]),
    ],
)
def test_a_session_that_would_lose_or_mix_up_data_keeps_a_role_from_starting(problems, statement, found):
    assert problems(statement) == found


@on_mariadb
def test_a_table_of_another_engine_is_e225(problems):
    try:
        assert problems("ALTER TABLE registry_unindexed ENGINE=MyISAM") == ["msgsys.E225"]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE registry_unindexed ENGINE=InnoDB")
    assert problems() == []


@on_mariadb
def test_a_database_of_another_character_set_is_e224(problems):
    name = connection.settings_dict["NAME"]
    try:
        assert problems(f"ALTER DATABASE {name} CHARACTER SET latin1", f"USE {name}") == ["msgsys.E224"]
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {name} CHARACTER SET utf8mb4")


def ids(facts):
    return [finding.id for finding in judge(facts)]


@pytest.mark.parametrize(
    ("product", "version", "found"),
    [
        ("MariaDB", (10, 5, 29), ["E221"]),
        ("MariaDB", (10, 6, 0), []),
        ("MariaDB", (11, 8, 2), []),
        ("MySQL", (5, 7, 44), ["E221"]),
        ("MySQL", (8, 0, 11), []),
        ("SQLite", (3, 34, 1), ["E221"]),
        ("SQLite", (3, 35, 0), []),
    ],
)
def test_versions_that_are_too_old_are_refused(product, version, found):
    assert ids(Facts(product, version, {} if product == "SQLite" else GOOD)) == found


def test_mysql_s_own_name_of_the_isolation_level_is_known():
    others = {name: value for name, value in GOOD.items() if name != "tx_isolation"}
    assert ids(Facts("MySQL", (8, 4), {**others, "transaction_isolation": "READ-COMMITTED"})) == []
    assert ids(Facts("MySQL", (8, 4), {**others, "transaction_isolation": "REPEATABLE-READ"})) == ["E223"]


def test_a_packet_too_small_for_the_index_is_a_warning():
    assert ids(Facts("MySQL", (8, 4), {**GOOD, "max_allowed_packet": "4194304"})) == ["W226"]


@pytest.mark.parametrize(
    ("encrypted", "verified", "found"), [(False, False, ["W227"]), (True, False, ["W228"]), (True, True, [])]
)
def test_another_machine_is_to_be_reached_by_tls_whose_certificate_is_verified(encrypted, verified, found):
    there = {"is_encrypted": encrypted, "is_verified": verified}
    assert ids(Facts("MariaDB", (10, 11), GOOD, is_remote=True, **there)) == found
    assert ids(Facts("MariaDB", (10, 11), GOOD, is_remote=False, **there)) == []


@pytest.mark.parametrize(
    ("host", "remote"),
    [("", False), ("localhost", False), ("::1", False), ("/run/mysqld.sock", False), ("10.0.0.7", True), ("db", True)],
)
def test_this_machine_is_told_from_others(monkeypatch, host, remote):
    monkeypatch.setitem(connection.settings_dict, "HOST", host)
    assert database_server._is_remote(connection) is remote


def test_every_finding_says_what_to_do():
    worst = Facts("MySQL", (5, 7), {**GOOD, "sql_mode": "", "max_allowed_packet": "1"}, ["x"], is_remote=True)
    assert all(finding.hint for finding in judge(worst))


def test_files_for_tls_that_cannot_be_used_are_e229(settings, transactional_db, monkeypatch, tmp_path):
    settings.ROLE = "registry"
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "ssl", {"ca": str(tmp_path / "missing.crt")})
    assert [problem.id for problem in run_checks(tags=["database_server"])] == ["msgsys.E229"]
