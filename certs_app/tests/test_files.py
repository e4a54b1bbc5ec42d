"""Files that matter: secrets are read only while they are secret, and nothing is ever half written."""

import os
import stat
import threading
from pathlib import Path

import pytest

from certs_app.files import UnsafeFile, read_secret, write_atomic, write_secret


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(0o600)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UnsafeFile) as error:
        read_secret(path)
    return str(error.value)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_private_file_is_read(secret: Path, mode: int) -> None:
    secret.chmod(mode)

    assert read_secret(secret) == b"secret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644, 0o666, 0o777, 0o077])
def test_a_file_open_to_others_is_refused_with_the_cure(secret: Path, mode: int) -> None:
    secret.chmod(mode)

    assert f"mode {mode:04o}" in refusal(secret) or "cannot be read by this user" in refusal(secret)
    if os.geteuid() == 0:
        assert f"chmod 600 {secret}" in refusal(secret)


def test_what_is_no_file_is_refused(tmp_path: Path, secret: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none")
    assert "not a regular file" in refusal(tmp_path)
    assert "cannot be read" in refusal(secret / "below")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read" in refusal(tmp_path / "loop")


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)

    assert "not a regular file" in refusal(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(secret: Path) -> None:
    os.chown(secret, 12345, 12345)

    assert "belongs to user 12345" in refusal(secret)


def test_a_link_is_followed_and_what_is_behind_it_counts(secret: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(secret)

    assert read_secret(link) == b"secret"
    secret.chmod(0o644)
    assert "mode 0644" in refusal(link)


def test_a_file_too_large_for_a_secret_is_refused(secret: Path) -> None:
    secret.write_bytes(b"x" * ((1 << 20) + 1))

    assert "not a key file" in refusal(secret)


def test_a_written_secret_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    write_secret(path, b"secret")

    assert read_secret(path) == b"secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_secret_is_replaced_only_when_that_is_meant(secret: Path) -> None:
    with pytest.raises(FileExistsError, match="not overwritten"):
        write_secret(secret, b"other")
    assert read_secret(secret) == b"secret"

    write_secret(secret, b"other", replace=True)
    assert read_secret(secret) == b"other"


def test_of_many_who_make_the_same_secret_one_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made: list[bytes] = []
    start = threading.Barrier(8)

    def make(content: bytes) -> None:
        start.wait()
        try:
            write_secret(path, content)
        except FileExistsError:
            return
        made.append(content)

    threads = [threading.Thread(target=make, args=(bytes([number]),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(made) == 1
    assert path.read_bytes() == made[0]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "list"
    write_atomic(path, b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(path, b"new")

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_new_secret_leaves_no_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            write_secret(tmp_path / "key", b"secret")

    assert list(tmp_path.iterdir()) == []


def test_readers_see_the_old_content_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "list"
    contents = [bytes([number]) * 100_000 for number in range(2)]
    write_atomic(path, contents[0])
    stop = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(50):
        write_atomic(path, contents[number % 2])
    stop.set()
    reader.join()

    assert seen <= set(contents)
