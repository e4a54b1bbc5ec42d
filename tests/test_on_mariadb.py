"""The whole way with MariaDB instead of SQLite."""

import os
import shutil

import pytest

from tests import mariadb
from tests.running import Installation, eventually

pytestmark = [pytest.mark.system, pytest.mark.mariadb]


@pytest.fixture
def database_url(tmp_path):
    if shutil.which("mariadbd", path=os.environ["PATH"] + os.pathsep + "/usr/sbin") is None:
        if os.environ.get("CI"):
            pytest.fail("mariadbd is missing")
        pytest.skip("mariadbd is not installed")
    pytest.importorskip("MySQLdb")
    folder = tmp_path / "mariadb"
    folder.mkdir()
    server = mariadb.start(folder)
    yield server.url
    server.stop()


def test_a_message_goes_all_the_way_into_mariadb(tmp_path, database_url):
    installed = Installation(tmp_path / "home", {"DATABASE_URL": database_url})
    try:
        installed.up("--no-demo")
        with installed.session() as alice:
            uid = installed.submit(alice, "into MariaDB").json()["id"]
        staff = installed.staff()
        eventually(lambda: [found["id"] for found in installed.messages(staff)] == [uid], within=10)
        assert not list(installed.home.glob("*.sqlite3"))
    finally:
        installed.stop_all()
