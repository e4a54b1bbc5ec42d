import base64
import json
import os
import subprocess
import sys

import pytest
from django.conf import settings as django_settings

from registry import blind_index, fields, keyring
from registry.keyring import KeyMissing, KeyRing, KeyRingError, Masters
from registry.models import Message
from registry.tests.conftest import BODY, Column, a_row

ONE, TWO = bytes(range(32)), bytes(range(32, 64))
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="on Windows the folder's ACL protects the file")


def part(primary=1, keys=None):
    return {"primary": primary, "keys": {"1": base64.b64encode(ONE).decode()} if keys is None else keys}


def document(**changes):
    return {"version": 1, "encryption": part(), "index": part(), **changes}


@pytest.fixture
def key_file(tmp_path):
    """Write a key file, private unless `mode` says otherwise."""

    def write(content, mode=0o600):
        file = tmp_path / "keyring.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        file.chmod(mode)
        return file

    return write


def test_a_fresh_ring_is_private_and_loads(tmp_path):
    file = tmp_path / "folder" / "keyring.json"
    keyring.create(file)
    ring = keyring.load(file)
    assert ring.encryption.primary == ring.index.primary == 1
    assert ring.encryption.keys[1] != ring.index.keys[1]
    if sys.platform != "win32":
        assert file.stat().st_mode & 0o077 == 0


def test_keys_are_never_overwritten(tmp_path):
    file = tmp_path / "keyring.json"
    keyring.create(file)
    before = file.read_bytes()
    with pytest.raises(FileExistsError):
        keyring.create(file)
    assert file.read_bytes() == before


@POSIX
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610, 0o601, 0o077, 0o666])
def test_a_file_open_to_others_is_refused(key_file, mode):
    with pytest.raises(KeyRingError, match="chmod 600"):
        keyring.load(key_file(document(), mode))


@POSIX
@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_file_is_read(key_file, mode):
    assert keyring.load(key_file(document(), mode)).encryption.keys[1] == ONE


@POSIX
def test_a_link_is_judged_by_the_file_behind_it(key_file, tmp_path):
    file, link = key_file(document()), tmp_path / "link"
    link.symlink_to(file)
    assert keyring.load(link).encryption.keys[1] == ONE
    file.chmod(0o644)
    with pytest.raises(KeyRingError):
        keyring.load(link)


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_no_file_is_said_clearly(tmp_path, kind):
    path = tmp_path if kind == "folder" else tmp_path / "missing.json"
    with pytest.raises(KeyRingError, match="cannot be used"):
        keyring.load(path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "5",
        "{}",
        document(encryption=None),
        document(encryption=[]),
        document(encryption={"keys": {}}),
        document(encryption={"primary": 1}),
        document(encryption=part(keys=[])),
        document(encryption=part(keys={"one": base64.b64encode(ONE).decode()})),
        document(encryption=part(keys={"1": "not base64!"})),
        document(encryption=part(keys={"1": 5})),
        document(index=part(keys={"1": "ÿ"})),
        document(version=2),
        document(version=2, index={"keys": {"1": {"state": "primary", "key": base64.b64encode(ONE).decode() + "!"}}}),
        {"encryption": part(), "index": part()},
    ],
    ids=repr,
)
def test_a_damaged_file_is_refused_without_showing_its_content(key_file, content):
    with pytest.raises(KeyRingError, match="damaged") as caught:
        keyring.load(key_file(content))
    assert base64.b64encode(ONE).decode() not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encryption": part(primary=2)}, "primary key 2"),
        ({"index": part(keys={})}, "primary key 1"),
        ({"encryption": part(keys={"1": base64.b64encode(ONE[:31]).decode()})}, "31 bytes instead of 32"),
        ({"encryption": part(keys={"1": base64.b64encode(ONE * 2).decode()})}, "64 bytes instead of 32"),
        ({"encryption": part(0, {"0": base64.b64encode(ONE).decode()})}, "key id 0"),
        ({"encryption": part(1 << 32, {str(1 << 32): base64.b64encode(ONE).decode()})}, "does not fit"),
        ({"version": 3}, "version 3"),
    ],
)
def test_a_wrong_ring_is_refused_by_what_is_wrong(key_file, changes, reason):
    with pytest.raises(KeyRingError, match=reason):
        keyring.load(key_file(document(**changes)))


def test_keys_are_not_shown_by_their_repr():
    assert str(ONE) not in repr(Masters(1, {1: ONE}))


def test_purposes_and_rings_have_different_keys():
    ring = KeyRing(Masters(1, {1: ONE}), Masters(1, {1: TWO}))
    keys = {ring.encryption.derive(1, "enc:a"), ring.encryption.derive(1, "enc:b"), ring.index.derive(1, "enc:a")}
    assert len(keys) == 3


def test_an_unknown_key_is_missing():
    with pytest.raises(KeyMissing, match="key 7"):
        Masters(1, {1: ONE}).derive(7, "enc:a")


def test_rows_of_the_old_key_open_after_the_primary_changes(db, monkeypatch):
    def use(primary, keys):
        ring = KeyRing(Masters(primary, keys), Masters(1, {1: ONE}))
        for module in (fields, blind_index):
            monkeypatch.setattr(module, "ring", lambda: ring)

    use(1, {1: ONE})
    old = a_row()
    old.save()
    use(2, {1: ONE, 2: TWO})
    new = a_row(message_body="under key 2")
    new.save()
    assert Column(old).read()[2:6] == b"\0\0\0\x01"
    assert Column(new).read()[2:6] == b"\0\0\0\x02"
    assert Message.objects.get(pk=old.pk).message_body == BODY
    assert Message.objects.get(pk=new.pk).message_body == "under key 2"
    use(2, {2: TWO})
    with pytest.raises(KeyMissing, match="key 1"):
        _ = Message.objects.get(pk=old.pk).message_body


@pytest.mark.parametrize("role", ["ingest", "worker"])
@pytest.mark.parametrize("module", ["registry.keyring", "registry.sealing", "registry.fields"])
def test_a_process_without_data_keys_cannot_import_their_door(role, module, tmp_path):
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": f"msgsys_project.settings.{role}",
        "MSGSYS_HOME": str(tmp_path),
    }
    code = f"import django; django.setup(); import {module}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=django_settings.BASE_DIR,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"a process of role {role} holds no data keys" in done.stderr
