"""manage.py reseal: every value comes under the primary key, whatever happens meanwhile."""

import json
import random
import subprocess
import sys
from io import StringIO
from threading import Event, Thread

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from registry import resealing
from registry.key_document import ENCRYPTION
from registry.key_steps import Actor, Keys
from registry.keyring import ring
from registry.models import Checkpoint, Message
from registry.resealing import Resealing
from registry.tests.conftest import BODY, Column, a_row, keep, manage, until

KILLS, FEWEST_KILLS, ROWS = 20, 3, 4000
# The command, in batches so small that there are many points to be killed at.
SMALL_BATCHES = """
import django; django.setup()
from django.core.management import call_command
from registry import checkpoints
checkpoints.BATCH_ROWS = 10
call_command("reseal")
"""


def fill(number, **changes):
    """Insert messages whose body says which they are."""
    rows = [a_row(message_body=f"body {place}", **changes) for place in range(number)]
    Message.objects.bulk_create(rows, batch_size=500)
    return {row.uid: row.message_body for row in rows}


def rotate():
    keys = Keys(Actor.operator(), timezone.now())
    added = keys.add(ENCRYPTION)
    keys.promote(ENCRYPTION, added)
    until(lambda: ring().encryption.primary == added)


def reseal(*arguments):
    """Return what `reseal --json` says, and its exit code."""
    out = StringIO()
    try:
        call_command("reseal", *arguments, "--json", stdout=out, stderr=out)
        code = 0
    except CommandError as error:
        code = error.returncode
    said = out.getvalue()
    return json.loads(said[said.index("{\n") :]), code


def in_table():
    return {message.uid: message.message_body for message in Message.objects.all()}


def test_every_value_comes_under_the_primary_key(db, key_file):
    written = fill(30, client_reference="Ref") | fill(30)
    rotate()
    said, code = reseal()
    assert (said["by_key"], said["left"], code) == ({"2": 150}, 0, 0)
    assert in_table() == written


def test_a_value_already_under_it_is_not_written_again(db, key_file, stored):
    old = stored()
    rotate()
    new = stored()
    before = Column(new).read()
    reseal()
    assert Column(new).read() == before
    (checkpoint,) = Checkpoint.objects.all()
    assert (checkpoint.done, checkpoint.skipped, checkpoint.failed) == (1, 1, 0)
    assert checkpoint.finished_at
    assert Message.objects.get(pk=old.pk).message_body == BODY


def test_what_cannot_be_opened_is_named_counted_and_left_alone(db, key_file, stored, caplog):
    bad, worse, good = stored(), stored(), stored()
    spoiled = Column(bad).read()[:-1] + b"\0"
    Column(bad).write(spoiled)
    Column(worse, "sender_number").write(b"never sealed")
    rotate()
    out = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("reseal", stdout=out, stderr=out)
    assert caught.value.returncode == 3
    assert f"(Tampered): message_body of {bad.uid.hex}" in out.getvalue()
    assert f"(Malformed): sender_number of {worse.uid.hex}" in out.getvalue()
    assert "2 cannot be opened" in out.getvalue()
    assert Column(bad).read() == spoiled
    assert Column(worse, "sender_number").read() == b"never sealed"
    assert Column(bad, "sender_number").read()[5] == 2, "the rest of the row is done"
    assert Message.objects.get(pk=good.pk).message_body == BODY
    assert BODY not in caplog.text


def test_what_is_written_meanwhile_stays(db, key_file, stored):
    message = stored()
    rotate()

    class Interrupted(resealing.Table):
        """Between the look at a row and its change, somebody else changes it."""

        def read(self, after, most):
            rows = super().read(after, most)
            if rows:
                message.message_body = "written meanwhile"
                message.save()
            return rows

    (table,) = resealing.tables()
    list(Resealing(Interrupted(Message, table.fields), timezone.now(), print).run())
    assert Message.objects.get(pk=message.pk).message_body == "written meanwhile"
    # The guard is over all that would be changed in the row: its other values wait for the next pass.
    said, code = reseal()
    assert (said["left"], code) == (0, 0)


def test_a_dry_run_counts_and_changes_nothing(db, key_file, stored):
    message = stored()
    rotate()
    before = Column(message).read()
    said, code = reseal("--dry-run")
    assert (said["left"], said["by_key"], code) == (2, {"1": 2}, 0)
    assert Column(message).read() == before
    assert not Checkpoint.objects.exists()


def test_verifying_opens_every_value(db, key_file, stored):
    bad, _ = stored(), stored()
    assert reseal("--verify") == ({"primary": 1, "by_key": {"1": 4}, "left": 0, "unreadable": 0}, 0)
    Column(bad).write(Column(bad).read()[:-1] + b"\0")
    assert reseal("--verify") == ({"primary": 1, "by_key": {"1": 3}, "left": 0, "unreadable": 1}, 3)
    rotate()
    assert reseal("--verify")[0]["left"] == 3


def test_whether_a_key_is_needed_is_read_in_pages(db, key_file, monkeypatch):
    """mysqlclient fetches a result as a whole: one of all values would be the whole table in memory."""
    fill(25)
    monkeypatch.setattr(resealing, "BATCH_ROWS", 10)
    *bad, good = Message.objects.order_by("id")
    with connection.cursor() as cursor:
        # Each names its key, and does not open.
        cursor.executemany(
            "UPDATE registry_message SET sender_number = message_body WHERE id = %s", [(row.pk,) for row in bad]
        )
    (table,) = resealing.tables()
    fetched = []

    def watch(execute, sql, params, many, context):
        fetched.append(params[-1] if sql.endswith("LIMIT %s") else None)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch):
        assert table.some_value_opens(1, ring())
        assert fetched == [10, 10, 10], "the last row of the third page opens"
        Message.objects.filter(pk=good.pk).delete()
        fetched.clear()
        assert table.some_value_opens(1, ring()), "the bodies open"
    assert fetched[1:] == [10, 10, 10, 10], "of the numbers three pages and the end, then one of the bodies"
    assert not table.some_value_opens(2, ring())


def test_the_rate_is_kept(db, key_file):
    fill(30)
    rotate()
    began = timezone.now()
    reseal("--rate", "10")
    # Three batches of ten, a second each.
    assert (timezone.now() - began).total_seconds() >= 2.5


def test_a_second_rotation_does_it_all_again(db, key_file):
    written = fill(10)
    for primary in (2, 3):
        rotate()
        said, _ = reseal()
        assert said["by_key"] == {str(primary): 20}
    assert in_table() == written


@pytest.mark.system
@pytest.mark.timeout(900)
def test_killed_again_and_again_it_ends_with_every_row_under_the_new_key(shared_database, key_file):
    written = fill(ROWS)
    rotate()
    stop, inserted = Event(), {}

    def insert():
        while not stop.wait(0.01):
            row = a_row(message_body=f"meanwhile {len(inserted)}")
            keep(row)
            inserted[row.uid] = row.message_body
        connection.close()

    writer = Thread(target=insert)
    writer.start()
    try:
        done = _killed_again_and_again()
        assert done == sorted(done), "what is done stays done"
        assert len(done) >= FEWEST_KILLS, "killed in the middle, each time"
        final = subprocess.run(**manage("reseal", "--json"), capture_output=True, text=True, timeout=200, check=True)
    finally:
        stop.set()
        writer.join()
    assert json.loads(final.stdout)["left"] == 0
    said, code = reseal("--verify")
    everything = written | inserted
    assert (said["by_key"], said["unreadable"], code) == ({"2": 2 * len(everything)}, 0, 0)
    assert inserted
    assert in_table() == everything


def _killed_again_and_again():
    """Return how many rows were done after each kill. How fast the machine is decides how many fit into the work."""
    done = []
    while len(done) < KILLS and (rows := _killed_after_some_progress()) < ROWS:
        done.append(rows)
    return done


def _killed_after_some_progress():
    """Start the command, kill it at a random point of its work; return how many rows were done by then."""
    before = _done()
    process = subprocess.Popen(**{**manage(), "args": [sys.executable, "-c", SMALL_BATCHES]})
    try:
        until(lambda: _done() > before or process.poll() is not None, within=60)
        # Any moment within the few batches that follow.
        Event().wait(random.uniform(0, 0.05))
    finally:
        process.kill()
        process.wait()
    return _done()


def _done():
    return Checkpoint.objects.filter(job__startswith="reseal").values_list("done", flat=True).first() or 0
