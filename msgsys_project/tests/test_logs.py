"""What a log line says, and where it goes."""

import logging
import logging.config
import os
import subprocess
import sys
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest

from msgsys_project import logs
from msgsys_project.environment import BASE_DIR

ENVELOPE = "an envelope with a message in it"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """The log file of a process that was told to keep one."""
    file = tmp_path / "worker.log"
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    logging.config.dictConfig(logs.configuration("INFO", str(file)))
    yield file
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level = before, level


def lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("package", sorted(logs.OWN))
def test_our_own_fields_follow_the_sentence(log: Path, package: str) -> None:
    logging.getLogger(f"{package}.somewhere").info("a message went", extra={"uid": "0198", "try": 2})
    assert lines(log)[0].endswith(f" INFO {package}.somewhere: a message went try=2 uid=0198")


@pytest.mark.parametrize("name", ["celery.app.trace", "celery.worker.request", "django.request", "ingestible"])
def test_what_others_attach_to_their_records_is_not_shown(log: Path, name: str) -> None:
    failure = {"args": f"[{ENVELOPE!r}]", "kwargs": "{}", "hostname": "w1"}
    logging.getLogger(name).error("Task %(id)s failed", {"id": "0198"}, extra={"data": failure, "request": ENVELOPE})
    assert lines(log)[0].endswith(f" ERROR {name}: Task 0198 failed")


def test_the_file_is_rotated_and_seven_older_ones_are_kept(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [handler] = [each for each in logging.getLogger().handlers if isinstance(each, RotatingFileHandler)]
    assert (handler.maxBytes, handler.backupCount) == (10_000_000, 7)
    monkeypatch.setattr(handler, "maxBytes", 100)
    for number in range(20):
        logging.getLogger("deploy").info("línea %s of a log that is long enough to fill a file alone, nearly", number)
    assert len(list(log.parent.iterdir())) == 8
    assert "línea 19" in lines(log)[0]


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "DJANGO_SETTINGS_MODULE": "msgsys_project.settings.worker", **environment}
    return subprocess.run(
        [sys.executable, *command], cwd=BASE_DIR, env=variables, capture_output=True, text=True, check=True
    )


SPEAK = "import django, logging; django.setup(); logging.getLogger('ingest').warning('the queue is away')"


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "worker.log"
    spoken = _run("-c", SPEAK, MSGSYS_LOG_FILE=str(file))
    assert "the queue is away" in lines(file)[0]
    assert "the queue is away" not in spoken.stderr


def test_without_a_file_the_log_goes_to_standard_error() -> None:
    assert "the queue is away" in _run("-c", SPEAK, MSGSYS_LOG_FILE="").stderr


def test_a_process_that_logs_nothing_makes_no_file(tmp_path: Path) -> None:
    file = tmp_path / "worker.log"
    _run("-c", "import django; django.setup()", MSGSYS_LOG_FILE=str(file))
    assert not file.exists()
