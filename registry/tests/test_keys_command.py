"""manage.py keys: each step as an operator takes it, with a real key file and real rows."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from certs_app.files import write_secret
from certs_app.models import AuditEvent
from registry import canaries, key_document, keyring
from registry.key_document import ENCRYPTION, INDEX
from registry.keyring import KeyMissing, ring
from registry.models import Canary, Checkpoint, Message, Unindexed
from registry.search import building
from registry.tests.conftest import BODY, NOW, Column, a_row, until

pytestmark = pytest.mark.django_db


def keys(*arguments):
    out = StringIO()
    call_command("keys", *map(str, arguments), stdout=out, stderr=out)
    return out.getvalue()


def refused(*arguments, code=1):
    with pytest.raises(CommandError) as caught:
        keys(*arguments)
    assert caught.value.returncode == code, caught.value
    return str(caught.value)


def states(kind=ENCRYPTION):
    return {key_id: key.state for key_id, key in keyring.document().of(kind).items()}


def audited():
    return list(AuditEvent.objects.order_by("id").values_list("action", "subject"))


def promoted(kind=ENCRYPTION):
    keys("add", kind)
    keys("promote", kind, 2)
    part = {ENCRYPTION: lambda: ring().encryption, INDEX: lambda: ring().index}[kind]
    until(lambda: part().primary == 2)


def test_a_rotation_from_beginning_to_end(key_file, stored):
    old = stored()
    keys("add", "encryption")
    assert states() == {1: "primary", 2: "staged"}
    keys("promote", "encryption", 2)
    until(lambda: ring().encryption.primary == 2)
    new = stored(message_body="new")
    assert Column(old).read()[2:6] == b"\0\0\0\x01"
    assert Column(new).read()[2:6] == b"\0\0\0\x02"
    assert Message.objects.get(pk=old.pk).message_body == BODY
    assert "sealed by encryption key 1" in refused("retire", "encryption", 1, code=3)
    call_command("reseal", stdout=StringIO())
    keys("retire", "encryption", 1)
    keys("destroy", "encryption", 1, "--yes")
    assert states() == {1: "destroyed", 2: "primary"}
    until(lambda: 1 not in ring().encryption.keys)
    assert Message.objects.get(pk=old.pk).message_body == BODY
    assert audited() == [
        ("key_added", "encryption key 2"),
        ("key_promoted", "encryption key 2"),
        ("key_retired", "encryption key 1"),
        ("key_destroyed", "encryption key 1"),
    ]
    assert "fit the data" in keys("check")


def test_a_key_that_one_value_still_needs_is_not_retired(key_file, stored):
    message, other = stored(client_reference="Ref 1"), stored()
    promoted()
    reference = Column(message, "client_reference").read()
    call_command("reseal", stdout=StringIO())
    Column(message, "client_reference").write(reference)
    assert "1 stored values are sealed by encryption key 1" in refused("retire", "encryption", 1, code=3)
    assert "1 stored values" in refused("retire", "encryption", 1, "--dry-run", code=3)
    assert states()[1] == "active"
    assert Message.objects.get(pk=other.pk).message_body == BODY


def test_a_value_that_no_key_opens_keeps_no_key(key_file, stored):
    message = stored()
    blob = Column(message).read()
    promoted()
    call_command("reseal", stdout=StringIO())
    Column(message).write(blob[:-1] + bytes([blob[-1] ^ 1]))
    keys("retire", "encryption", 1)
    assert states()[1] == "retired"


def test_a_retirement_can_be_taken_back(key_file, stored):
    message = stored()
    old = Column(message).read()
    promoted()
    call_command("reseal", stdout=StringIO())
    keys("retire", "encryption", 1)
    until(lambda: 1 not in ring().encryption.keys)
    # Somebody who had not noticed wrote it.
    Column(message).write(old)
    with pytest.raises(KeyMissing):
        _ = Message.objects.get(pk=message.pk).message_body
    assert "sealed by encryption key 1" in refused("destroy", "encryption", 1, "--yes", code=3)
    keys("reactivate", "encryption", 1)
    until(lambda: 1 in ring().encryption.keys)
    assert Message.objects.get(pk=message.pk).message_body == BODY


@pytest.mark.parametrize("indexed", [True, False], ids=["by a run", "by a sender"])
def test_an_index_key_that_anything_is_found_by_is_not_retired(key_file, stored, indexed):
    message = stored()
    if indexed:
        Unindexed.objects.note([message.uid])
        building.index_new(timezone.now())
    promoted(INDEX)
    why = "1 runs of the search index" if indexed else "found by their sender"
    assert why in refused("retire", "index", 1, code=3)
    call_command("reindex", stdout=StringIO())
    keys("retire", "index", 1)
    keys("destroy", "index", 1, "--yes")
    assert states(INDEX) == {1: "destroyed", 2: "primary"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["retire", "encryption", "1"], "is primary"),
        (["destroy", "encryption", "1", "--yes"], "is primary"),
        (["promote", "index", "7"], "no index key 7"),
    ],
)
def test_a_step_that_cannot_be_taken_is_explained_and_changes_nothing(key_file, arguments, why):
    before = key_file.read_bytes()
    assert why in refused(*arguments)
    assert key_file.read_bytes() == before
    assert audited() == []


def test_destroying_asks_first(key_file):
    promoted()
    keys("retire", "encryption", 1)
    before = key_file.read_bytes()
    assert "no terminal to ask at" in refused("destroy", "encryption", 1)
    assert "would be destroyed" in keys("destroy", "encryption", 1, "--dry-run")
    assert key_file.read_bytes() == before


def test_init_makes_a_file_once(settings, tmp_path):
    settings.KEY_FILE = tmp_path / "new" / "keyring.json"
    assert "Back it up" in keys("init")
    assert keyring.load(settings.KEY_FILE)
    assert set(Canary.objects.values_list("kind", flat=True)) == {ENCRYPTION, INDEX}
    before = settings.KEY_FILE.read_bytes()
    refused("init")
    assert settings.KEY_FILE.read_bytes() == before


def test_init_makes_no_keys_beside_data_of_others(settings, tmp_path):
    a_row().save()
    settings.KEY_FILE = tmp_path / "new" / "keyring.json"
    assert "restore the key file" in refused("init")
    assert not settings.KEY_FILE.exists()


@pytest.mark.parametrize("arguments", [["add", "encryption"], ["promote", "encryption", "2"]])
def test_no_step_is_taken_in_another_installations_file(key_file, settings, tmp_path, arguments):
    canaries.make_missing(NOW)
    settings.KEY_FILE = tmp_path / "other.json"
    document, _ = key_document.first(NOW).add(ENCRYPTION, NOW)
    settings.KEY_FILE.write_bytes(key_document.encode(document))
    settings.KEY_FILE.chmod(0o600)
    before = settings.KEY_FILE.read_bytes()
    assert "not the one that the data was written with" in refused(*arguments)
    assert settings.KEY_FILE.read_bytes() == before
    assert "encryption key 1 is not the data's" in refused("check")


@pytest.mark.parametrize("kind", [ENCRYPTION, INDEX])
def test_a_key_that_another_machine_added_is_not_added_a_second_time(key_file, settings, tmp_path, kind):
    other = tmp_path / "other.json"
    write_secret(other, key_file.read_bytes())
    keys("add", kind)
    settings.KEY_FILE, before = other, other.read_bytes()
    assert f"{kind} key 2 was added on another machine: copy the key file from there" in refused("add", kind)
    assert other.read_bytes() == before
    assert Canary.objects.filter(kind=kind).count() == 2
    settings.KEY_FILE = key_file
    assert "fit the data" in keys("check")


@pytest.mark.parametrize("arguments", [["reseal"], ["reseal", "--verify"], ["reindex"], ["reindex", "--all"]])
def test_nothing_is_worked_on_with_another_installations_keys(key_file, settings, tmp_path, stored, arguments):
    message = stored()
    canaries.make_missing(NOW)
    settings.KEY_FILE = tmp_path / "other.json"
    keyring.create(settings.KEY_FILE)
    before = [Column(message, name).read() for name in ("sender_number", "sender_index")]
    with pytest.raises(CommandError, match="not the one that the data was written with"):
        call_command(*arguments, stdout=StringIO(), stderr=StringIO())
    assert [Column(message, name).read() for name in ("sender_number", "sender_index")] == before
    assert not Checkpoint.objects.exists()


def test_a_link_is_kept_and_what_it_leads_to_is_changed(key_file, settings, tmp_path):
    link = tmp_path / "link.json"
    link.symlink_to(key_file)
    settings.KEY_FILE = link
    keys("add", "encryption")
    assert link.is_symlink()
    assert 2 in keyring.load(key_file).encryption.keys


def test_the_status_lists_every_key_and_what_needs_it(key_file, stored):
    stored()
    promoted()
    stored(client_reference="x")
    (one, two, index) = json.loads(keys("status", "--count", "--json"))
    assert (one["kind"], one["id"], one["state"], one["used"]) == ("encryption", 1, "active", 2)
    assert (two["id"], two["state"], two["used"]) == (2, "primary", 3)
    assert index["kind"] == "index"
    text = keys("status")
    assert len(text.splitlines()) == 3
    assert "created 20" in text
    for key in keyring.document().encryption.values():
        assert key.material.hex() not in text


def test_check_says_so_in_json(key_file):
    assert json.loads(keys("check", "--json"))["problems"] == []


def test_a_file_of_version_1_is_read_and_written_anew_as_version_2(key_file):
    document = json.loads(key_file.read_text())
    old = {kind: {"primary": 1, "keys": {"1": document[kind]["keys"]["1"]["key"]}} for kind in ("encryption", "index")}
    key_file.write_text(json.dumps({"version": 1, **old}))
    keys("add", "encryption")
    assert json.loads(key_file.read_text())["version"] == 2
    assert states() == {1: "primary", 2: "staged"}
    assert "created unknown" in keys("status")


def test_with_a_key_command_the_states_are_changed_elsewhere(key_file, settings):
    settings.KEY_COMMAND = ("cat", str(key_file))
    assert "MSGSYS_KEY_COMMAND" in refused("add", "encryption")
    assert "primary" in keys("status")


def test_an_audit_that_cannot_be_written_leaves_the_file_as_it_was(key_file, monkeypatch):
    before = key_file.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(AuditEvent, "save", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            keys("add", "encryption")
    assert key_file.read_bytes() == before
