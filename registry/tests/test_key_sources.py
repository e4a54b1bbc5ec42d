"""A running process follows its key ring: a file, or what a command writes."""

import logging
import sys
import time

import pytest

from certs_app.files import write_secret
from registry import key_document, key_source, keyring
from registry.key_document import ENCRYPTION
from registry.keyring import KeyMissing, KeyRingError, ring
from registry.tests.conftest import NOW, until


def put(file, document):
    write_secret(file, key_document.encode(document), replace=True)


def two_keys(document):
    return document.add(ENCRYPTION, NOW)[0]


# -- a file


def test_a_running_process_notices_a_new_key_file(key_file):
    document = two_keys(keyring.document())
    assert ring().encryption.primary == 1
    put(key_file, document.promote(ENCRYPTION, 2, NOW))
    until(lambda: ring().encryption.primary == 2)


def test_an_unknown_key_is_looked_for_in_the_file(key_file):
    held = ring()
    put(key_file, two_keys(keyring.document()))
    until(lambda: 2 in held._newer().encryption.keys)
    assert held.aead(2, "x"), "also by who holds the ring of before"
    with pytest.raises(KeyMissing):
        held.aead(3, "x")


def test_a_file_is_looked_at_once_a_second_at_most(key_file, monkeypatch):
    looks = []
    real = key_source.file_identity
    monkeypatch.setattr(key_source, "file_identity", lambda path: looks.append(path) or real(path))
    began = time.monotonic()
    for _ in range(2000):
        ring()
        with pytest.raises(KeyMissing):
            ring().aead(9, "x")
    assert 1 <= len(looks) <= 2 + (time.monotonic() - began) / key_source.KeyFile.look_every


@pytest.mark.parametrize("spoiled", ["damaged", "gone", "open to others", "of another installation"])
def test_a_file_that_cannot_be_used_does_not_replace_what_is_held(key_file, spoiled, caplog):
    if spoiled == "open to others" and sys.platform == "win32":
        pytest.skip("mode bits say nothing there")
    held = ring()
    cipher = held.aead(1, "x")
    if spoiled == "gone":
        key_file.unlink()
    elif spoiled == "of another installation":
        put(key_file, key_document.first(NOW))
    elif spoiled == "damaged":
        write_secret(key_file, b"{", replace=True)
    else:
        key_file.chmod(0o644)
    with caplog.at_level(logging.ERROR, "registry.keyring"):
        until(lambda: ring() and caplog.records)
        assert ring() is held
        assert ring().aead(1, "x") is cipher
    assert len(caplog.records) == 1, "said once, not at every look"


def test_a_repaired_file_is_followed_again(key_file, caplog):
    good = key_file.read_bytes()
    assert ring()
    write_secret(key_file, b"{", replace=True)
    with caplog.at_level(logging.ERROR, "registry.keyring"):
        until(lambda: ring() and caplog.records)
    document = two_keys(key_document.decode(good, "x"))
    put(key_file, document)
    until(lambda: 2 in ring().encryption.keys)


# -- a command


@pytest.fixture
def command(tmp_path, settings):
    """Make a key command of Python code; return the file that it counts its runs in."""
    runs = tmp_path / "runs"
    runs.write_text("")

    def make(code, *arguments):
        script = tmp_path / "command.py"
        counted = f"import sys, pathlib\nwith open({str(runs)!r}, 'a') as file: file.write('x')\n"
        script.write_text(counted + code, encoding="utf-8")
        settings.KEY_COMMAND = (sys.executable, str(script), *arguments)
        return runs

    return make


@pytest.fixture
def kept(tmp_path):
    """A document in a file, and the code that writes it out."""
    file = tmp_path / "kept.json"
    put(file, key_document.first(NOW))
    return file, f"sys.stdout.write(pathlib.Path({str(file)!r}).read_text())"


def test_the_keys_can_come_from_a_command(command, kept):
    file, code = kept
    command(code)
    assert keyring.document() == key_document.decode(file.read_bytes(), "x")
    assert ring().encryption.primary == 1


def test_a_command_gets_its_arguments_and_no_shell(command, kept):
    command("assert sys.argv[1] == '$(touch x); &', sys.argv; " + kept[1], "$(touch x); &")
    assert keyring.document()


def test_a_command_is_asked_again_for_an_unknown_key_but_not_all_the_time(command, kept, monkeypatch):
    file, code = kept
    runs = command(code)
    monkeypatch.setattr(key_source.KeyCommand, "__init__", _impatient(key_source.KeyCommand.__init__))
    held = ring()
    put(file, two_keys(key_document.decode(file.read_bytes(), "x")))
    for _ in range(200):
        ring()
    assert runs.read_text() == "x", "known keys are no reason to ask"
    until(lambda: _opens(held, 2))
    before, began = len(runs.read_text()), time.monotonic()
    for _ in range(200):
        assert not _opens(held, 3)
    assert len(runs.read_text()) - before <= 1 + time.monotonic() - began


def _impatient(init):
    def quick(self, command):
        init(self, command, unknown_every=1.0)

    return quick


def _opens(held, key_id):
    try:
        return held.aead(key_id, "x")
    except KeyMissing:
        return False


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("sys.stderr.write('token s3cret'); sys.exit(3)", "exit code 3"),
        ("print('s3cret')", "damaged"),
        ("", "damaged"),
        ("sys.stdout.write('s3cret' * 1_000_000)", "more than 1048576 bytes"),
        ("import time; print('s3cret', flush=True); time.sleep(60)", "not ended within"),
        ("import subprocess; subprocess.Popen(['sleep', '60'])", "not ended within"),
    ],
)
def test_a_command_that_fails_is_said_without_what_it_wrote(command, code, why, monkeypatch, capfd):
    # Enough for a busy machine to start Python in.
    monkeypatch.setattr(key_source, "TIMEOUT", 5.0)
    command(code)
    began = time.monotonic()
    with pytest.raises(KeyRingError, match=why) as caught:
        ring()
    assert time.monotonic() - began < 30
    assert "s3cret" not in str(caught.value) + "".join(capfd.readouterr())


def test_a_command_that_does_not_exist_is_said(settings):
    settings.KEY_COMMAND = ("/does/not/exist",)
    with pytest.raises(KeyRingError, match="cannot be started: No such file"):
        ring()
