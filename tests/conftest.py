"""Fixtures that start the real system."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import Installation, start_valkey


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
