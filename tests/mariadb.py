"""A MariaDB of its own for the tests: `python -m tests.mariadb -- COMMAND...` runs COMMAND with DATABASE_URL set.

Exit code 3: there is no mariadbd here. Otherwise it is COMMAND's own.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NO_SERVER = 3
START_SECONDS = 60
_SBIN = os.pathsep.join(["/usr/sbin", "/usr/local/sbin"])


class NoMariaDB(Exception):
    """mariadbd cannot be found or does not start."""


@dataclass
class Server:
    """A running server; `url` is its DATABASE_URL."""

    process: "subprocess.Popen[bytes]"
    url: str
    folder: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2].partition("/")[0])

    def run(self, statements: str, *, check: bool = True) -> str:
        """Run statements as its administrator; return what the client prints, without headings."""
        command = [_program("mariadb"), "--no-defaults", f"--socket={_socket(self.folder)}", "--user=root", "-N"]
        # Without check, what follows a statement that fails is run as well.
        command += [] if check else ["--force"]
        done = subprocess.run(command, input=statements.encode(), check=check, capture_output=True)
        return done.stdout.decode()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(folder: Path, *options: str) -> Server:
    """Serve the database in `folder` on a free port of 127.0.0.1; install it first if need be. Raises NoMariaDB."""
    data, log = folder / "data", folder / "mariadb.log"
    is_new = not data.exists()
    if is_new:
        _install(data, log)
    port = _free_port()
    command = [
        _program("mariadbd"),
        "--no-defaults",
        f"--user={getpass.getuser()}",
        f"--datadir={data}",
        f"--socket={_socket(folder)}",
        f"--pid-file={folder / 'mariadbd.pid'}",
        f"--port={port}",
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
        "--character-set-server=utf8mb4",
        # Nothing here outlives the tests: no need to wait for the disk.
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-flush-method=nosync",
        "--sync-binlog=0",
        "--innodb-buffer-pool-size=64M",
        "--performance-schema=OFF",
        *options,
    ]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    server = Server(process, f"mysql://msgsys:msgsys@127.0.0.1:{port}/msgsys", folder)
    try:
        _wait_until_ready(server, port, log)
        if is_new:
            _create_database(server)
    except BaseException:
        server.stop()
        raise
    return server


def _program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + os.pathsep + _SBIN)
    if found is None:
        raise NoMariaDB(f"{name} is not on PATH: install mariadb-server to run the tests on MariaDB")
    return found


def _install(data: Path, log: Path) -> None:
    command = [
        _program("mariadb-install-db"),
        "--no-defaults",
        f"--user={getpass.getuser()}",
        f"--datadir={data}",
        # root without a password, also for those who are not root here: the socket lies in a private folder.
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
    ]
    _program("mariadbd")
    with log.open("ab") as output:
        if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False).returncode:
            raise NoMariaDB(f"mariadb-install-db failed:\n{_tail(log)}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _socket(folder: Path) -> Path:
    return folder / "s"


def _wait_until_ready(server: Server, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise NoMariaDB(f"mariadbd ended at once:\n{_tail(log)}")
        try:
            # The server speaks first: a greeting, and not just an open port, means that it is ready.
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                if connection.recv(5):
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise NoMariaDB(f"mariadbd did not start within {START_SECONDS} s:\n{_tail(log)}")


def _create_database(server: Server) -> None:
    statements = """
        CREATE DATABASE msgsys CHARACTER SET utf8mb4;
        CREATE USER msgsys@'127.0.0.1' IDENTIFIED BY 'msgsys';
        GRANT ALL ON *.* TO msgsys@'127.0.0.1';
    """
    server.run(statements)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def _run(command: Sequence[str]) -> int:
    # A short path: a unix socket's has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="mariadb-", ignore_cleanup_errors=True) as folder:
        server = start(Path(folder))
        try:
            return subprocess.run(command, env={**os.environ, "DATABASE_URL": server.url}, check=False).returncode
        finally:
            server.stop()


def main(arguments: Sequence[str]) -> int:
    command = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if not command:
        print("usage: python -m tests.mariadb -- COMMAND...", file=sys.stderr)
        return 2
    try:
        return _run(command)
    except NoMariaDB as error:
        print(error, file=sys.stderr)
        return NO_SERVER


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
