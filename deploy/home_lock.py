"""One `up` per home: a second one's Valkey would write to the same append-only file, and accepted messages be lost."""

from pathlib import Path

from filelock import FileLock, Timeout


class AlreadyRunning(Exception):
    """Another `up` holds the home. The message says which home."""


def take(home: Path) -> FileLock:
    """Hold the home until the returned lock is released, or this process ends in whatever way: the OS sees to that.

    Raises AlreadyRunning, OSError.
    """
    lock = FileLock(home / "up.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise AlreadyRunning(
            f"msgsys is running already in {home}. Stop that first, or choose another home and ports: "
            "--home DIR --port-offset 100"
        ) from None
    return lock
