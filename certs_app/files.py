"""Files that matter: private ones are read only while they are private, and all are written atomically."""

import os
import stat
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock

from certs_app import windows_acl

_MAX_SECRET_BYTES = 1 << 20


class UnsafeFile(Exception):
    """A secret's file is missing, not a regular file, or open to others. The message says what to do."""


def read_secret(path: Path) -> bytes:
    """Read a private file, judging the opened descriptor so that nothing can be swapped between check and use.

    Symbolic links are followed (Kubernetes mounts secrets as links): what counts is the file behind them.
    Raises UnsafeFile.
    """
    descriptor = _open(path)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeFile(f"{path} is not a regular file")
        if sys.platform == "win32":
            _check_acl(path, descriptor)
        else:
            _check_owner_only(path, status)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(_MAX_SECRET_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MAX_SECRET_BYTES:
        raise UnsafeFile(f"{path} is larger than {_MAX_SECRET_BYTES} bytes: not a key file")
    return content


def _open(path: Path) -> int:
    # Without O_NONBLOCK, opening a named pipe would wait for its writer for ever.
    flags = [getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY", "O_NONBLOCK")]
    try:
        return os.open(path, sum(flags, os.O_RDONLY))
    except FileNotFoundError:
        raise UnsafeFile(f"{path} does not exist") from None
    except PermissionError:
        raise UnsafeFile(f"{path} cannot be read by this user") from None
    except OSError as error:
        raise UnsafeFile(f"{path} cannot be read: {error.strerror}") from None


def _check_owner_only(path: Path, status: os.stat_result) -> None:
    # A mask, not a comparison: 0o077 is "less" than 0o600 as a number.
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise UnsafeFile(f"{path} has mode {mode:04o}: others could read it. Run: chmod 600 {path}")
    if status.st_uid not in (0, os.geteuid()):
        raise UnsafeFile(f"{path} belongs to user {status.st_uid}, neither root nor the one running this")


if sys.platform == "win32":

    def _check_acl(path: Path, descriptor: int) -> None:
        # There, the mode bits say nothing.
        others = sorted(set(windows_acl.strangers(windows_acl.of_descriptor(descriptor))))
        if others:
            raise UnsafeFile(
                f"{path} can be read by {', '.join(others)}. Run: icacls {path} /inheritance:r "
                "/grant *S-1-3-4:F *S-1-5-18:F *S-1-5-32-544:F, and remove the others"
            )


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` in one step: readers see the old content or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        if sys.platform == "win32" and not mode & 0o077:
            windows_acl.restrict(str(temporary))
        _replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def lock_beside(path: Path) -> FileLock:
    """Return a lock on `path` for those who read it, decide and write it, in whatever process. Waits 10 s at most.

    Nobody else may even open it: on Linux, reading is enough to hold such a lock, and to stop everybody by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"), timeout=10, mode=0o600)


def _replace(temporary: Path, path: Path) -> None:
    """Rename over `path`. Windows refuses while somebody reads the old file: try again for a second."""
    deadline = time.monotonic() + 1
    while True:
        try:
            temporary.replace(path)
            return
        except PermissionError:
            if os.name != "nt" or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut: the name is in the folder, and the folder is a file of its own."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_secret(path: Path, content: bytes, *, replace: bool = False) -> None:
    """Write a private file (mode 0600 in a 0700 folder). Raises FileExistsError unless `replace`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not replace:
        _reserve(path)
    try:
        write_atomic(path, content, mode=0o600)
    except BaseException:
        if not replace:
            path.unlink(missing_ok=True)
        raise


def _reserve(path: Path) -> None:
    """Create the file, empty. Of two who try at once, one fails: asking `exists()` first would let both through."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise FileExistsError(f"{path} exists already and is not overwritten") from None
