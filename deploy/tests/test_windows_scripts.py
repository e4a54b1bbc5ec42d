"""The batch files that operators on Windows know: what they call, and the traps of cmd that they go around."""

import re
import subprocess
from argparse import ArgumentParser
from pathlib import Path

import pytest
from django.core.management import load_command_class

from msgsys_project.environment import BASE_DIR

FOLDER = BASE_DIR / "deploy" / "windows"
CALLS = {"generate_cert.bat": "issue_cert --role client", "revoke_cert.bat": "revoke_cert"}


@pytest.fixture(params=CALLS)
def file(request: pytest.FixtureRequest) -> Path:
    return FOLDER / str(request.param)


@pytest.fixture
def lines(file: Path) -> list[str]:
    return [line for line in file.read_text(encoding="ascii").splitlines() if line and not line.startswith("rem ")]


def test_they_have_the_names_operators_know() -> None:
    assert {file.name for file in FOLDER.glob("*.bat")} == set(CALLS)


def test_their_lines_end_as_cmd_wants_it(file: Path) -> None:
    """cmd misses labels in files with bare line feeds."""
    content = file.read_bytes()
    assert content.endswith(b"\r\n")
    assert content.count(b"\n") == content.count(b"\r\n")
    said = subprocess.run(
        ["git", "check-attr", "eol", str(file)], cwd=BASE_DIR, capture_output=True, text=True, check=True
    )
    assert said.stdout.rstrip().endswith("eol: crlf")


def test_they_call_the_command_and_pass_on_what_was_typed(file: Path, lines: list[str]) -> None:
    calls = [line for line in lines if "manage.py" in line and not line.startswith("echo ")]

    end = rf'"%ROOT%\manage.py" {CALLS[file.name]} %*'
    assert calls == [f"py {end}", f'"%PYTHON%" {end}']
    # The command's own code goes on: the line after each call.
    assert [lines[lines.index(call) + 1] for call in calls] == ["exit /b %ERRORLEVEL%"] * 2


def test_a_role_that_was_typed_goes_before_the_usual_one() -> None:
    parser: ArgumentParser = load_command_class("certs_app", "issue_cert").create_parser("manage.py", "issue_cert")

    assert parser.parse_args(["--role", "client", "bob"]).role == "client"
    assert parser.parse_args(["--role", "client", "ada", "--role", "admin"]).role == "admin"


def test_they_find_their_python_from_any_folder_and_in_paths_with_spaces(lines: list[str]) -> None:
    assert r'set "ROOT=%~dp0..\.."' in lines
    assert r'set "PYTHON=%ROOT%\.venv\Scripts\python.exe"' in lines
    assert 'if exist "%PYTHON%" goto venv' in lines
    assert (FOLDER / ".." / ".." / "manage.py").resolve().exists()
    for line in lines:
        assert not re.search(r"(?<![\x22=])%(ROOT|PYTHON)%", line), f"unquoted: {line}"


def test_they_write_utf_8(lines: list[str]) -> None:
    assert 'set "PYTHONUTF8=1"' in lines


def test_without_an_argument_they_say_how_they_are_used(file: Path, lines: list[str]) -> None:
    assert 'if "%~1"=="" goto usage' in lines
    usage = lines[lines.index(":usage") :]
    assert usage[1] == f"echo Usage: {file.name} CN [options] 1>&2"
    assert usage[-1] == "exit /b 2"


def test_every_jump_has_a_place_to_land(lines: list[str]) -> None:
    jumps = {match[1] for line in lines if (match := re.search(r"goto (\w+)", line))}
    assert jumps == {line[1:] for line in lines if line.startswith(":")}
