"""The whole way with MariaDB instead of SQLite."""

import pytest

from tests.running import Installation, eventually

pytestmark = [pytest.mark.system, pytest.mark.mariadb]


def test_a_message_goes_all_the_way_into_mariadb(tmp_path, start_mariadb):
    installed = Installation(tmp_path / "home", {"DATABASE_URL": start_mariadb().url})
    try:
        installed.up("--no-demo")
        with installed.session() as alice:
            uid = installed.submit(alice, "into MariaDB").json()["id"]
        staff = installed.staff()
        eventually(lambda: [found["id"] for found in installed.messages(staff)] == [uid], within=10)
        assert not list(installed.home.glob("*.sqlite3"))
    finally:
        installed.stop_all()


def test_connections_are_kept_and_a_lost_one_costs_no_request(tmp_path, start_mariadb):
    server = start_mariadb()
    installed = Installation(tmp_path / "home", {"DATABASE_URL": server.url})
    try:
        installed.up("--no-demo")
        staff = installed.staff()
        assert list(installed.messages(staff)) == []
        before = connections_made(server)
        for _ in range(30):
            assert list(installed.messages(staff)) == []
        # The jobs process and the readiness checks have made some of their own meanwhile.
        assert connections_made(server) - before < 20

        lost = server.run("SELECT id FROM information_schema.processlist WHERE user = 'msgsys'").split()
        assert lost
        # One may have ended by itself.
        server.run("".join(f"KILL {number};\n" for number in lost), check=False)
        assert list(installed.messages(staff)) == []
        with installed.session() as alice:
            uid = installed.submit(alice, "over a new connection").json()["id"]
        eventually(lambda: [found["id"] for found in installed.messages(staff)] == [uid], within=30)
    finally:
        installed.stop_all()


def connections_made(server):
    return int(server.run("SHOW GLOBAL STATUS LIKE 'Connections'").split()[1])
