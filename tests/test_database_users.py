"""Each process with a database user of its own, on a real MariaDB, with the rights of deploy/mysql/grants.sql."""

import io
import json
import re

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from deploy import grants
from tests.running import ROOT, Installation, eventually, start_valkey

USERS = ("migrate", "registry", "portal")
DENIED = (1044, 1142, 1143, 1227)


def written(*arguments):
    output = io.StringIO()
    call_command("database_grants", *arguments, stdout=output)
    return output.getvalue()


def test_every_table_is_decided_upon(db):
    assert set(connection.introspection.table_names()) == set(grants.TABLES)


def test_the_script_is_what_the_command_writes():
    assert (ROOT / "deploy" / "mysql" / "grants.sql").read_text() == written()


def test_the_portal_changes_only_what_is_its_own():
    rights = json.loads(written("--json"))
    portal, ours = rights["portal"], ("registry_", "certs_app_")
    others = {table: allowed for table, allowed in portal.items() if table.startswith(ours)}
    # It opens messages, and writes down which do not.
    assert others.pop("registry_unreadable") == ["SELECT", "INSERT"]
    assert all(allowed == ["SELECT"] for allowed in others.values())
    assert "DELETE" not in rights["registry"]["certs_app_auditevent"]
    assert "UPDATE" not in rights["registry"]["certs_app_auditevent"]


@pytest.mark.parametrize("option", ["--database=a`b", "--host=x'y"])
def test_no_name_can_break_out_of_the_statements(option):
    with pytest.raises(CommandError):
        written(option)


@pytest.mark.mariadb
def test_whoever_may_migrate_may_do_nothing_in_a_database_with_a_similar_name(start_mariadb):
    server = start_mariadb()
    server.run("CREATE DATABASE my_messages; CREATE DATABASE my2messages")
    server.run("CREATE USER 'msgsys_migrate'@'%' IDENTIFIED BY 'migrate'")
    server.run(written("--database", "my_messages", "--only", "migrate"))
    assert refused(server, "migrate", "CREATE TABLE mine (id int)", database="my_messages") == 0
    assert refused(server, "migrate", "CREATE TABLE mine (id int)", database="my2messages") in DENIED


@pytest.fixture
def users(start_mariadb, tmp_path):
    """An installation whose every process has its own user; and the server."""
    server = start_mariadb()
    for user in USERS:
        server.run(f"CREATE USER 'msgsys_{user}'@'%' IDENTIFIED BY '{user}'")
    urls = {user: f"mysql://msgsys_{user}:{user}@127.0.0.1:{server.port}/msgsys" for user in USERS}
    installed = Installation(tmp_path / "home", {"DATABASE_URL": urls["migrate"]})
    server.run(written("--only", "migrate"))
    try:
        installed.home.mkdir()
        installed.manage("migrate")
        server.run(written())
        installed.up("--no-demo")
        installed.stop("up", within=30)
        yield installed, urls, server
    finally:
        installed.stop_all()


@pytest.mark.system
@pytest.mark.mariadb
def test_each_does_its_work_with_its_own_rights_and_nothing_else(users):
    installed, urls, server = users
    start_valkey(installed)
    for role, user in (("registry", "registry"), ("ingest", "registry"), ("worker", "registry"), ("portal", "portal")):
        installed.settings["DATABASE_URL"] = urls[user]
        installed.serve(role)
    with installed.session() as alice:
        uid = installed.submit(alice, "the heron stands by the weir").json()["id"]
    staff = installed.staff()
    eventually(lambda: [found["id"] for found in installed.messages(staff)] == [uid], within=30)

    # The jobs process indexes what waits when it starts.
    installed.settings["DATABASE_URL"] = urls["registry"]
    installed.serve("jobs")
    eventually(lambda: server.run("SELECT COUNT(*) FROM msgsys.registry_search_run") == "1\n", within=30)
    answer = staff.post(f"{installed.ready['portal']}/api/messages/search/", json={"words": "heron weir"}, timeout=30)
    assert [found["id"] for found in answer.json()["results"]] == [uid], answer.text
    assert signed_in_to_the_pages(installed)

    server.run("UPDATE msgsys.registry_message SET message_body = 'tampered with'")
    assert len(list(installed.messages(staff))) == 1
    assert server.run("SELECT seen_by FROM msgsys.registry_unreadable") == "portal\n"

    for user, statement in [
        ("portal", "UPDATE registry_message SET status = 'failed'"),
        ("portal", "DELETE FROM registry_message"),
        ("portal", "INSERT INTO registry_unindexed VALUES (99)"),
        ("portal", "UPDATE registry_unreadable SET reason = 'key_missing'"),
        ("portal", "DELETE FROM registry_unreadable"),
        ("portal", "UPDATE certs_app_certificate SET revoked_at = NULL"),
        ("portal", "DELETE FROM django_admin_log"),
        ("portal", "SELECT * FROM django_migrations"),
        ("portal", "CREATE TABLE mine (id int)"),
        ("registry", "DROP TABLE registry_message"),
        ("registry", "ALTER TABLE registry_message DROP COLUMN status"),
        ("registry", "TRUNCATE TABLE registry_message"),
        ("registry", "SELECT password FROM auth_user"),
        ("registry", "SELECT * FROM django_session"),
        ("registry", "UPDATE certs_app_auditevent SET actor = 'nobody'"),
        ("migrate", "CREATE USER eve"),
        ("migrate", "GRANT SELECT ON msgsys.registry_message TO msgsys_portal@'%'"),
    ]:
        assert refused(server, user, statement) in DENIED, (user, statement)


def signed_in_to_the_pages(installed):
    browser = installed.session("")
    portal = installed.ready["portal"]
    form = browser.get(f"{portal}/login/", timeout=30).text
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form).group(1)
    login = {"username": installed.ready["admin_user"], "password": installed.ready["admin_password"]}
    answer = browser.post(
        f"{portal}/login/",
        data={**login, "csrfmiddlewaretoken": token},
        headers={"Referer": f"{portal}/login/"},
        timeout=30,
    )
    return answer.status_code == 200 and "sessionid" in browser.cookies


def refused(server, user, statement, database="msgsys"):
    """Return the number of the error that a statement ends in; 0 when it does not."""
    import MySQLdb

    asking = MySQLdb.connect(host="127.0.0.1", port=server.port, user=f"msgsys_{user}", password=user)
    try:
        asking.cursor().execute(f"USE {database}")
        asking.cursor().execute(statement)
    except MySQLdb.MySQLError as error:
        return error.args[0]
    finally:
        asking.rollback()
        asking.close()
    return 0
