"""`manage.py dead_letters`, called as an operator does, against a real Valkey."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command

from ingest import dead_letters
from ingest.queue import name
from ingest.tests.test_dead_letters import HASH, put
from wire import ids
from wire.tests.test_envelope import VECTOR

NOVEMBER_24 = 1_795_478_400  # 2026-11-24T00:00:00Z


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("dead_letters", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def refused(*arguments: str) -> CommandError:
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    return caught.value


def listed(*arguments: str) -> list[str]:
    return [one["id"] for one in json.loads(run("list", "--json", *arguments))]


def test_list_says_in_plain_words_why_and_what_to_do(valkey):
    uid = put(valkey.client, at=NOVEMBER_24)
    shown = run("list")
    for part in (uid, "bad_seal", "2026-11-24T00:00:00Z", "does not open it", "sealing.json", "1 dead letters in all"):
        assert part in shown


def test_list_shows_the_newest_first_and_says_how_many_there_are(valkey):
    letters = [put(valkey.client, at=n) for n in range(150)]
    assert listed() == letters[:-101:-1]
    assert listed("--limit", "3") == letters[:-4:-1]
    assert listed("--limit", "0") == letters[::-1]
    assert "100 listed, the newest first; 150 dead letters in all" in run("list")


def test_an_empty_hash_is_no_error(valkey):
    assert listed() == []
    assert "0 dead letters requeued" in run("requeue")
    assert "0 dead letters dropped" in run("drop")


def test_filters_narrow_what_is_meant(valkey):
    old = put(valkey.client, at=NOVEMBER_24 - 1)
    new = put(valkey.client, at=NOVEMBER_24, code="bad_signature")
    assert listed("--since", "2026-11-24") == [new]
    assert listed("--until", "2026-11-24") == [old]
    assert listed("--code", "bad_seal") == [old]
    assert set(listed("--code", "bad_seal", "--code", "bad_signature")) == {old, new}
    assert listed("--id", new) == [new]
    assert listed("--id", new, "--code", "bad_seal") == []


def test_ids_come_from_a_file_or_from_standard_input(valkey, tmp_path, monkeypatch):
    one, two, three = (put(valkey.client, at=n) for n in range(3))
    file = tmp_path / "ids.txt"
    run("export-ids", "--code", "bad_seal", "--limit", "2", "--out", str(file))
    assert file.read_text() == f"{one}\n{two}\n"
    assert run("export-ids") == f"{one}\n{two}\n{three}\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{two}\n{three}\n"))
    assert "2 dead letters requeued" in run("requeue", "--ids", "-")
    assert listed() == [one]


def test_show_tells_who_signed_and_which_key_it_is_sealed_to_and_nothing_of_the_content(valkey):
    blob = bytes.fromhex(VECTOR["envelope"])
    uid = put(valkey.client, letter_id=VECTOR["envelope_id"], envelope=base64.b64encode(blob).decode())
    shown = json.loads(run("show", uid, "--json"))[0]
    assert (shown["envelope_version"], shown["sealing_key"], shown["envelope_bytes"]) == (1, 7, len(blob))
    assert shown["signer_fingerprint"] == VECTOR["header"][44:]
    for text in (run("show", uid), json.dumps(shown)):
        assert base64.b64encode(blob[200:230]).decode() not in text
        assert blob[200:230].hex() not in text


def test_show_of_what_is_no_envelope_says_so(valkey):
    uid = put(valkey.client)
    valkey.client.hset(HASH, "malformed-1", json.dumps({"code": "malformed_entry", "at": 1, "entry": "x"}))
    shown = run("show", uid, "malformed-1")
    assert "too short" in shown
    assert shown.count("cannot be read") == 2


def test_an_unknown_id_is_named(valkey):
    unknown = str(ids.new_id(1))
    for action in (("show", unknown), ("requeue", "--id", unknown), ("drop", "--yes", "--id", unknown)):
        error = refused(*action)
        assert unknown in str(error)
        assert error.returncode == 1
    known = put(valkey.client)
    shown = run("requeue", "--id", known, "--id", unknown)
    assert "1 dead letters requeued" in shown
    assert f"Passed over, no such dead letter or left out by the filters: {unknown}" in shown


@pytest.mark.parametrize("action", ["requeue", "drop"])
def test_a_dry_run_changes_nothing(action, valkey):
    uid = put(valkey.client)
    put(valkey.client, code="bad_signature")
    assert "1 dead letters would be" in run(action, "--code", "bad_seal", "--dry-run")
    assert dead_letters.count() == 2
    assert valkey.client.hexists(HASH, uid)
    assert valkey.client.llen(name()) == 0


def test_requeue_takes_the_oldest_first(valkey):
    letters = [put(valkey.client, at=n) for n in range(5)]
    run("requeue", "--limit", "2")
    assert listed() == letters[:1:-1]


def test_requeue_says_what_cannot_go_and_ends_with_3(valkey):
    valkey.client.hset(HASH, "malformed-1", json.dumps({"code": "malformed_entry", "at": 1, "entry": "x"}))
    put(valkey.client)
    error = refused("requeue")
    assert error.returncode == 3
    assert "malformed-1: it is no message a worker could take" in str(error)
    assert valkey.client.llen(name()) == 1


def test_requeue_into_a_full_queue_ends_with_3_and_can_be_run_again(valkey, settings):
    settings.MAX_QUEUE_LENGTH = 25
    for n in range(30):
        put(valkey.client, at=n)
    error = refused("requeue")
    assert error.returncode == 3
    assert "25 requeued, then the queue holds the 25 entries it may" in str(error)
    settings.MAX_QUEUE_LENGTH = 30
    assert "5 dead letters requeued" in run("requeue")


def test_drop_names_what_it_dropped_and_the_command_that_tells_the_ledger(valkey):
    one, two = put(valkey.client, at=1), put(valkey.client, at=2)
    said = run("drop", "--yes")
    assert said.splitlines()[:2] == [one, two]
    assert f"manage.py reconcile --write-off --envelope {one} --envelope {two}" in said
    assert "unaccounted" in said
    for n in range(11):
        put(valkey.client, at=n)
    assert "manage.py reconcile --write-off --envelopes FILE" in run("drop", "--yes")
    valkey.client.hset(HASH, "malformed-1", "{}")
    assert "reconcile" not in run("drop", "--yes"), "nobody accepted it"


def test_drop_refuses_without_yes_where_nobody_can_be_asked(valkey, monkeypatch):
    put(valkey.client)
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\n"))
    assert "1 dead letters for ever" in str(refused("drop"))
    assert dead_letters.count() == 1
    assert "1 dead letters dropped" in run("drop", "--yes")
    assert dead_letters.count() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pseudo-terminal")
@pytest.mark.parametrize(("answer", "left"), [("y", 2), ("3", 2), ("2", 0)])
def test_drop_asks_for_the_number_at_a_terminal(answer, left, valkey, tmp_path):
    import pty

    for _ in range(2):
        put(valkey.client)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", buffering=0) as keyboard:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "dead_letters", "drop"],
            cwd=django_settings.BASE_DIR,
            env=environment(valkey, tmp_path),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        os.close(theirs)
        keyboard.write(f"{answer}\n".encode())
        said, _ = process.communicate(timeout=60)
    assert b"deletes 2 dead letters for ever" in said
    assert dead_letters.count() == left
    assert process.returncode == (0 if left == 0 else 1)


def environment(valkey, home: Path) -> dict[str, str]:
    """A node that has the queue and nothing else: no database, no keys, no certificates."""
    clean = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "SYSTEMROOT")}
    return {**clean, "REDIS_URL": valkey.url, "MSGSYS_HOME": str(home / "none"), "MSGSYS_ENV_FILE": os.devnull}


def test_it_runs_where_there_is_nothing_but_the_queue(valkey, tmp_path):
    uid = put(valkey.client)
    done = subprocess.run(
        [sys.executable, "manage.py", "dead_letters", "export-ids"],
        cwd=django_settings.BASE_DIR,
        env=environment(valkey, tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{uid}\n", "")


def test_a_redis_that_is_away_is_said_in_one_line(own_valkey):
    own_valkey.stop()
    error = refused("list")
    assert error.returncode == 1
    assert "REDIS_URL" in str(error)


def test_a_wrong_date_and_a_wrong_file_teach(valkey, tmp_path):
    assert "write 2026-11-24" in str(refused("list", "--since", "yesterday"))
    assert "cannot be read" in str(refused("requeue", "--ids", str(tmp_path / "none")))
    empty = tmp_path / "empty"
    empty.write_text("\n")
    put(valkey.client)
    assert "has no id in it" in str(refused("drop", "--yes", "--ids", str(empty)))
    assert dead_letters.count() == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pseudo-terminal")
def test_long_work_shows_how_far_it_is_at_a_terminal_and_nowhere_else(valkey, tmp_path):
    import pty

    for terminal in (True, False):
        for n in range(100):
            put(valkey.client, at=n)
        ours, theirs = pty.openpty()
        done = subprocess.run(
            [sys.executable, "manage.py", "dead_letters", "requeue"],
            cwd=django_settings.BASE_DIR,
            env=environment(valkey, tmp_path) | {"TERM": "xterm"},
            stdout=subprocess.PIPE,
            stderr=theirs if terminal else subprocess.PIPE,
            timeout=60,
        )
        os.close(theirs)
        seen = os.read(ours, 10_000) if terminal else done.stderr
        os.close(ours)
        assert done.stdout == b"100 dead letters requeued.\n"
        assert (b"Requeueing" in seen and b"100%" in seen) if terminal else seen == b""


@pytest.mark.parametrize("action", ["list", "show", "requeue", "drop", "export-ids"])
def test_each_action_explains_itself_with_examples(action, capsys):
    with pytest.raises(SystemExit):
        call_command("dead_letters", action, "--help")
    assert f"manage.py dead_letters {action}" in capsys.readouterr().out


def test_a_hundred_thousand_letters_are_listed_and_exported(valkey, tmp_path):
    letter_ids = [str(uuid4()) for _ in range(100_000)]
    pipeline = valkey.client.pipeline(transaction=False)
    for n, one in enumerate(letter_ids):
        value = {"id": one, "code": "bad_seal", "at": n, "entry": "x" * 100}
        pipeline.hset(HASH, one, json.dumps(value))
    pipeline.execute()
    assert listed("--limit", "2") == letter_ids[:-3:-1]
    file = tmp_path / "ids.txt"
    run("export-ids", "--out", str(file))
    assert file.read_text().split() == letter_ids
