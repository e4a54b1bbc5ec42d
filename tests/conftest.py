"""Fixtures that start the real system."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import mariadb, nginx
from tests.running import Installation, start_valkey

# A server that is killed in the middle of an answer leaves the client's socket to the garbage collector: requests does
# not close it. Here alone, where whole servers are killed: in the apps' own tests it would be our leak.
CUT_OFF = "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("system"):
            item.add_marker(pytest.mark.filterwarnings(CUT_OFF))


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """`up`, running, shared by the tests of one module."""
    installed = Installation(
        tmp_path_factory.mktemp("system"), {"MSGSYS_RETRY_SECONDS": "2", "MSGSYS_VISIBILITY_TIMEOUT": "6"}
    )
    try:
        installed.up("--no-demo")
        yield installed
    finally:
        installed.stop_all()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Installation]:
    """A prepared home whose roles a test starts and stops one by one; Valkey runs already."""
    installed = Installation(tmp_path, {"MSGSYS_RETRY_SECONDS": "2", "MSGSYS_VISIBILITY_TIMEOUT": "6"})
    try:
        installed.up("--no-demo")
        installed.stop("up")
        start_valkey(installed)
        yield installed
    finally:
        installed.stop_all()


@pytest.fixture
def start_mariadb() -> Iterator[Callable[..., mariadb.Server]]:
    """Start MariaDB servers of the test's own, with whatever options it gives."""
    if shutil.which("mariadbd", path=os.environ["PATH"] + os.pathsep + "/usr/sbin") is None:
        if os.environ.get("CI"):
            pytest.fail("mariadbd is missing")
        pytest.skip("mariadbd is not installed")
    pytest.importorskip("MySQLdb")
    with contextlib.ExitStack() as ending:

        def start(*options: str) -> mariadb.Server:
            # Not tmp_path: a Unix socket's path has at most 107 characters.
            folder = tempfile.TemporaryDirectory(prefix="mariadb-", ignore_cleanup_errors=True)
            server = mariadb.start(Path(ending.enter_context(folder)), *options)
            ending.callback(server.stop)
            return server

        yield start


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation whose servers are behind nginx, shared by the tests of one module."""
    with nginx.installation(tmp_path_factory.mktemp("behind")) as installed:
        yield installed


@pytest.fixture(scope="module")
def alice(behind: Installation) -> tuple[str, str]:
    """Return alice's certificate of the installation behind nginx, and its key."""
    folder = behind.home / "people"
    behind.manage("issue_cert", "alice", "--role", "client", "--out", str(folder))
    return str(folder / "alice.crt"), str(folder / "alice.key")
