"""`manage.py reconcile`: everything accepted since some moment, at once."""

import io
import json
import time

import pytest
from django.core.management import CommandError, call_command

from ingest import reconciling
from ingest.ledger import Ledger, Line
from ingest.management.commands import reconcile as command
from registry.models import Message
from tests.balance.conftest import as_ids
from wire.ids import new_id


@pytest.fixture
def reconcile(home, monkeypatch, settings):
    """Run the command; return its exit code and what it wrote."""
    monkeypatch.setattr(reconciling, "PAUSE", 0)
    monkeypatch.setattr(command, "registry", lambda: home.registry)

    def go(*arguments):
        settings.LEDGER_DIR = home.folder
        out = io.StringIO()
        try:
            call_command("reconcile", *arguments, stdout=out)
        except SystemExit as end:
            return end.code, out.getvalue()
        return 0, out.getvalue()

    return go


def document(reconcile, *arguments):
    code, text = reconcile("--json", *arguments)
    return code, json.loads(text)


def test_when_nothing_is_missing_it_says_so(home, reconcile):
    home.submit(3)
    home.deliver(2)
    code, text = reconcile()
    assert code == 0
    assert "Nothing is missing." in text
    heading, row = text.splitlines()[1:3]
    assert heading.split() == ["hour", "(UTC)", "client", "accepted", "stored", "queued", "dead", "unaccounted"]
    assert row.split()[1:] == ["alice", "3", "2", "1", "0", "0"]


def test_a_row_for_each_client_and_hour_says_where_messages_are(home, reconcile):
    home.submit(5)
    home.submit_batch(7, client="dave")
    client = home.valkey.client
    dead = json.loads(client.rpop("deliver"))
    client.hset("deliver.dead_letters", dead["headers"]["id"], "{}")
    home.deliver(2)
    code, found = document(reconcile)
    assert (code, found["unaccounted"], found["missing"]) == (0, 0, [])
    numbers = {row["client"]: [row[n] for n in ("accepted", "stored", "queued", "dead")] for row in found["rows"]}
    assert numbers == {"alice": [5, 2, 2, 1], "dave": [7, 0, 7, 0]}


def test_what_was_settled_long_ago_is_looked_at_again(home, reconcile):
    lost, *_ = home.submit(4)
    home.deliver()
    home.balance()
    Message.objects.filter(uid__in=as_ids(lost)).delete()
    assert home.balance(2).unaccounted == 0
    code, text = reconcile()
    assert code == 1
    assert lost in text
    assert "1 unaccounted for" in text


def test_every_missing_message_is_named_for_programs(home, reconcile):
    lost = home.submit_batch(150)
    home.valkey.client.flushall()
    code, found = document(reconcile)
    assert (code, found["unaccounted"]) == (1, 150)
    assert {one["id"] for one in found["missing"]} == set(lost)
    assert {one["client"] for one in found["missing"]} == {"alice"}
    _, text = reconcile()
    assert "and 50 more" in text


def test_an_hour_without_lines_is_still_counted(home, reconcile):
    at = time.time() - 50 * 3600
    home.submit(2)
    home.deliver()
    for row in Message.objects.all():
        uid = new_id(at)
        Message.objects.filter(pk=row.pk).update(uid=uid)
        Ledger(home.folder).record([Line(uid, uid, 1, "alice")])
    for file in sorted(home.folder.glob("*.log"))[2:]:
        file.unlink()
    home.balance()
    assert not [file for file in home.folder.glob("*.log") if file.stat().st_mtime < at + 3600]
    code, found = document(reconcile, "--since", "3d")
    assert (code, found["rows"][0]["accepted"], found["rows"][0]["stored"]) == (0, 2, 2)
    Message.objects.first().delete()
    code, found = document(reconcile, "--since", "3d")
    assert (code, found["unaccounted"], found["rows"][0]["unaccounted"], found["missing"]) == (1, 1, 1, [])


def test_what_was_before_is_left_out(home, reconcile):
    at = time.time() - 7200
    Ledger(home.folder).record([Line(new_id(at), new_id(at), 1, "alice")])
    assert reconcile("--since", "60m")[0] == 0
    assert reconcile("--since", "4h")[0] == 1
    assert reconcile("--since", "2020-01-01")[0] == 1


def test_what_cannot_be_compared_has_a_code_of_its_own(home, reconcile, settings):
    home.submit(1)
    home.registry.away = True
    with pytest.raises(CommandError, match="cannot be compared now") as away:
        reconcile()
    home.folder = home.folder / "nowhere"
    with pytest.raises(CommandError, match="run this where ingest runs") as nowhere:
        reconcile()
    with pytest.raises(CommandError, match="is no time") as no_time:
        reconcile("--since", "yesterday")
    assert {error.value.returncode for error in (away, nowhere, no_time)} == {2}


def test_the_running_comparison_is_not_disturbed(home, reconcile):
    home.submit(3)
    home.valkey.client.rpop("deliver")
    home.balance()
    assert reconcile()[0] == 1
    assert home.balance().unaccounted == 1


def test_what_is_missing_can_be_given_up(home, reconcile, capsys):
    lost, *_ = home.submit(3)
    home.valkey.client.rpop("deliver")
    home.balance(2)
    code, text = reconcile("--write-off")
    assert (code, text) == (0, "1 given up. The alarm ends with the next comparison.\n")
    # In the log, too: the names are kept nowhere else.
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "given up" in line]
    assert lost in line
    assert home.balance().unaccounted == 0


def dead(home) -> str:
    """Let the oldest envelope be a dead letter; return its id."""
    entry = home.valkey.client.rpop("deliver")
    uid = json.loads(entry)["headers"]["id"]
    letter = {"id": uid, "code": "signer_revoked", "at": 1, "entry": entry.decode()}
    home.valkey.client.hset("deliver.dead_letters", uid, json.dumps(letter))
    return uid


def dropped() -> list[str]:
    """Drop all dead letters; return the arguments of the command that `drop` names."""
    said = io.StringIO()
    call_command("dead_letters", "drop", "--yes", stdout=io.StringIO(), stderr=said)
    return said.getvalue().split("manage.py reconcile ")[1].split()


def test_dropped_letters_are_given_up_before_anybody_misses_them(home, reconcile, capsys):
    home.submit_batch(3)
    uid = dead(home)
    stays = home.submit(1)
    code, text = reconcile(*dropped())
    assert (code, text) == (0, "3 messages given up.\n")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "given up" in line]
    assert uid in line
    assert home.balance(3).unaccounted == 0
    home.valkey.client.flushall()
    assert home.balance(2).unaccounted == 1, "what was not dropped is missed all the same"
    assert home.missing == set(stays)


def test_dropped_letters_are_missed_until_they_are_given_up(home, reconcile, tmp_path):
    lost = home.submit(2)
    ids = [dead(home), dead(home)]
    dropped()
    assert home.balance(2).unaccounted == 2
    file = tmp_path / "dropped.txt"
    file.write_text(f"{ids[0]}\nmalformed-0\n")
    assert reconcile("--write-off", "--envelopes", str(file)) == (0, "1 messages given up.\n")
    assert home.balance().unaccounted == 1
    assert home.missing == {lost[1]}
    assert reconcile("--write-off", "--envelopes", str(file))[1] == "0 messages given up.\n"


def test_a_dropped_replay_is_given_up_once(home, reconcile):
    home.submit(1, key="order-1")
    home.submit(1, key="order-1")
    dead(home)
    assert reconcile(*dropped())[1] == "1 messages given up.\n"
    assert home.balance(3).unaccounted == 0


def test_what_is_a_dead_letter_still_is_not_given_up(home, reconcile):
    home.submit(1)
    uid = dead(home)
    with pytest.raises(CommandError, match="drop it first"):
        reconcile("--write-off", "--envelope", uid)
    home.valkey.client.delete("deliver.dead_letters")
    assert home.balance(2).unaccounted == 1


def test_envelopes_of_another_ingest_are_said_to_be(home, make_home, reconcile, capsys):
    home.submit(1)
    second = make_home("second")
    second.submit(1)
    dead(home)
    uid = dead(second)
    assert reconcile(*dropped())[1] == "1 messages given up.\n"
    said = capsys.readouterr().err
    assert f"1 envelopes are not in this ledger, such as {uid}" in said


def test_only_envelopes_can_be_given_up_by_name(home, reconcile, tmp_path):
    home.submit(1)
    empty = tmp_path / "empty"
    empty.write_text("")
    for wrong in (["--envelope", "1"], ["--write-off", "--envelope", "1"], ["--write-off", "--envelopes", str(empty)]):
        with pytest.raises(CommandError) as error:
            reconcile(*wrong)
        assert error.value.returncode == 2
