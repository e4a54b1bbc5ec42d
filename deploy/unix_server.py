"""gunicorn with uvicorn workers on a Unix socket: for nginx, on Linux. There is no TCP listener."""

import contextlib
import functools
import logging
import os
import signal
import socket
import stat
import threading
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db import connections
from django.utils.module_loading import import_string
from filelock import FileLock, Timeout
from gunicorn.app.base import BaseApplication
from uvicorn_worker import UvicornWorker

from certs_app.server import STOP_WITHIN
from certs_app.terminated import TerminatedProtocol
from certs_app.terminator import Terminator
from deploy.behind_proxy import Begin
from msgsys_project.environment import LocalAddress

logger = logging.getLogger(__name__)

# The terminator's user comes in by the socket's group; nobody else does.
SOCKET_MODE = 0o660
# A worker that has not said a word for so long is replaced.
SILENT_SECONDS = 30
BACKLOG = 1024


def serve(address: LocalAddress, begin: Begin) -> None:
    """Serve until SIGINT or SIGTERM. Raises CommandError when somebody else serves there."""
    listener = listen(Path(address.socket))
    # A database connection must not be shared with the workers, which are forked.
    connections.close_all()
    _Gunicorn(listener, begin).run()


def listen(path: Path) -> socket.socket:
    """Listen on a new socket, in place of one that a killed process left behind. Raises CommandError."""
    _remove_stale(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # By the umask: it must not even for a moment be open to more.
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        listener.bind(str(path))
    except OSError as error:
        raise CommandError(f"{path} cannot be listened on: {error.strerror}") from None
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    return listener


def _remove_stale(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise CommandError(f"{path} is not a socket: choose another, or move it away")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
        raise CommandError(f"{path} is served already: stop that process first")


class _Gunicorn(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn, told everything here: no file, no command line, no environment has a say."""

    def __init__(self, listener: socket.socket, begin: Begin) -> None:
        self._listener = listener
        self._begin = begin
        super().__init__()

    def load_config(self) -> None:
        chosen = {
            "bind": f"fd://{self._listener.detach()}",
            "workers": settings.PROXY_WORKERS,
            "worker_class": Worker,
            "timeout": SILENT_SECONDS,
            "graceful_timeout": int(STOP_WITHIN.total_seconds()),
            # It would listen beside the socket above, for commands.
            "control_socket_disable": True,
            "accesslog": None,
            "errorlog": None,
            "on_starting": _starting,
            "post_fork": self._after_fork,
        }
        for name, value in chosen.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return import_string(settings.ASGI_APPLICATION)

    def _after_fork(self, arbiter: Any, worker: "Worker") -> None:
        """Do in one of the workers what a process does once: threads and ports do not come through a fork."""
        worker.only_one = FileLock(settings.HOME / f"{settings.ROLE}.worker.lock", thread_local=False, mode=0o600)
        try:
            worker.only_one.acquire(blocking=False)
        except Timeout:
            # When the one that does it ends, another takes over.
            threading.Thread(target=self._wait, args=(worker.only_one,), name="takes over", daemon=True).start()
            return
        self._begin()

    def _wait(self, only_one: FileLock) -> None:
        only_one.acquire(poll_interval=1)
        self._begin()


def _starting(arbiter: Any) -> None:
    logging.getLogger("gunicorn.error").propagate = True
    # Nothing is configured anew at run time: the socket was made once, and a closed terminal must end nothing.
    for name in ("HUP", "TTIN", "TTOU", "USR1", "USR2", "WINCH"):
        setattr(arbiter, f"handle_{name.lower()}", _ignore)


def _ignore() -> None:
    """Stand in for what gunicorn does at a signal."""


class Worker(UvicornWorker):  # type: ignore[misc]  # as above
    """A uvicorn like that of direct TLS, but for where callers come from (certs_app.server)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        terminator = Terminator(settings.PROXY_TOKEN, settings.CA_FILE, settings.TRUST_DOMAIN)
        self.CONFIG_KWARGS = {
            "http": functools.partial(TerminatedProtocol, terminator),
            "ws": "none",
            "loop": "certs_app.server:new_event_loop",
            "lifespan": "off",
            "interface": "asgi3",
            "access_log": False,
            "proxy_headers": False,
            "server_header": False,
            "timeout_keep_alive": settings.KEEP_ALIVE,
            # Before gunicorn kills.
            "timeout_graceful_shutdown": int(STOP_WITHIN.total_seconds()) - 1,
            "timeout_notify": 1,
        }
        super().__init__(*args, **options)
        logging.getLogger("uvicorn.error").propagate = True

    async def callback_notify(self) -> None:
        """Tell gunicorn that this worker lives; stop when gunicorn itself does not: nobody else would stop it."""
        await super().callback_notify()
        if os.getppid() != self.ppid:
            os.kill(os.getpid(), signal.SIGTERM)
