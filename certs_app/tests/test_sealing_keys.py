"""The sealing keys' two files."""

import base64
import json
from pathlib import Path

import pytest

from certs_app.sealing_keys import SealingKeyError, create, load_private, load_public, publish


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    private, public = tmp_path / "secret" / "sealing.json", tmp_path / "sealing.json"
    create(private, public)
    return private, public


def test_the_public_key_belongs_to_the_private_one(files: tuple[Path, Path]) -> None:
    key_id, public = load_public(files[1])

    assert load_private(files[0])[key_id].public_key() == public


def test_the_public_file_holds_nothing_private(files: tuple[Path, Path]) -> None:
    (private,) = load_private(files[0]).values()
    published = json.loads(files[1].read_bytes())["keys"].values()

    assert private.private_bytes_raw() not in [base64.b64decode(raw) for raw in published]


def test_a_lost_public_file_is_derived_from_the_private_one(files: tuple[Path, Path]) -> None:
    before = files[1].read_bytes()
    files[1].unlink()

    publish(*files)

    assert files[1].read_bytes() == before


def test_a_private_file_that_cannot_be_used_publishes_nothing(files: tuple[Path, Path]) -> None:
    files[0].write_bytes(b"junk")
    files[1].unlink()

    with pytest.raises(SealingKeyError):
        publish(*files)

    assert not files[1].exists()


def test_keys_are_never_overwritten(files: tuple[Path, Path]) -> None:
    before = [file.read_bytes() for file in files]

    with pytest.raises(FileExistsError):
        create(*files)

    assert [file.read_bytes() for file in files] == before


def test_a_private_file_open_to_others_is_refused(files: tuple[Path, Path]) -> None:
    files[0].chmod(0o640)

    with pytest.raises(SealingKeyError, match="chmod 600"):
        load_private(files[0])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"junk",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"primary": 1}',
        b'{"primary": 1, "keys": []}',
        b'{"primary": 1, "keys": {"1": "short"}}',
        b'{"primary": 1, "keys": {"1": "AAAA"}}',
        b'{"primary": 1, "keys": {"1": 7}}',
        b'{"primary": 1, "keys": {"one": "AAAA"}}',
        b'{"primary": null, "keys": {}}',
        b'{"primary": 2, "keys": {}}',
    ],
)
def test_a_damaged_file_is_told_as_such(files: tuple[Path, Path], content: bytes) -> None:
    for file, load in zip(files, (load_private, load_public), strict=True):
        file.write_bytes(content)
        with pytest.raises(SealingKeyError):
            load(file)


def test_a_missing_file_is_told_as_such(tmp_path: Path) -> None:
    for load in (load_private, load_public):
        with pytest.raises(SealingKeyError, match="none"):
            load(tmp_path / "none.json")
