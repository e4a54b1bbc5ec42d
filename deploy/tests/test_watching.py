"""A command runs once at the start and once for each change, and is tried again while it fails."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from certs_app.files import write_atomic
from certs_app.tests.conftest import until
from deploy import watching
from deploy.watching import Watcher


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(watching, "RETRY_AFTER", (0.02, 0.02, 0.02))


@contextmanager
def watching_files(files: list[Path], script: str) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=Watcher(files, [sys.executable, "-c", script], stop).run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def runs(tmp_path: Path) -> Callable[[], int]:
    log = tmp_path / "runs"
    log.touch()
    return lambda: len(log.read_bytes())


def noting(tmp_path: Path, *, fails: str = "False") -> str:
    """Return a script that notes that it ran; `fails` is an expression of `n`, the number of the run."""
    log = str(tmp_path / "runs")
    return f"import sys; f = open({log!r}, 'a'); f.write('.'); f.flush(); n = f.tell(); sys.exit({fails})"


def test_it_runs_once_at_the_start_and_once_for_each_change(tmp_path: Path, runs: Callable[[], int]) -> None:
    crl, ca = tmp_path / "crl.pem", tmp_path / "ca.crt"
    crl.write_text("1")
    with watching_files([crl, ca], noting(tmp_path)):
        until(lambda: runs() == 1)
        write_atomic(crl, b"2")
        until(lambda: runs() == 2)
        ca.write_text("appears")
        until(lambda: runs() == 3)
        threading.Event().wait(0.3)
        assert runs() == 3


def test_it_is_tried_again_until_it_succeeds(tmp_path: Path, runs: Callable[[], int]) -> None:
    with watching_files([tmp_path / "crl.pem"], noting(tmp_path, fails="n < 3")):
        until(lambda: runs() == 3)
        threading.Event().wait(0.3)
        assert runs() == 3


def test_after_so_many_failures_it_waits_for_the_next_change(
    tmp_path: Path, runs: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    crl = tmp_path / "crl.pem"
    with watching_files([crl], noting(tmp_path, fails="True")):
        until(lambda: "keeps failing" in caplog.text)
        assert runs() == 4
        threading.Event().wait(0.3)
        assert runs() == 4
        write_atomic(crl, b"2")
        until(lambda: runs() == 8)


def test_a_command_that_is_not_there_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=Watcher([tmp_path / "crl.pem"], ["/no/such/program"], stop).run)
    thread.start()
    until(lambda: "keeps failing" in caplog.text)
    stop.set()
    thread.join(5)
    assert "could not be run" in caplog.text
