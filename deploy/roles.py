"""The processes of one machine, and how each is served."""

import os
import signal
import sys
from collections.abc import Callable
from threading import Thread

from django.conf import settings
from django.utils.module_loading import import_string

from certs_app.server import Listener, build_server
from certs_app.tls import TlsFiles
from monitoring import exporter

WORKER_THREADS = 4


def serve(role: str) -> None:
    """Serve `role` until SIGINT or SIGTERM. This process already runs under the role's own settings."""
    exporter.start()
    SERVE[role]()


def _serve_http() -> None:
    pair = settings.SERVER_CERTIFICATE
    files = TlsFiles(pair["certificate"], pair["key"], settings.CA_FILE, settings.CRL_FILE)
    # People come to the portal with a browser and a password, everybody else with a certificate.
    listener = Listener(settings.HOST, settings.PORT, files, client_certificates=settings.ROLE != "portal")
    build_server(import_string(settings.ASGI_APPLICATION), listener).run()


def _serve_worker() -> None:
    app = import_string("msgsys_project.celery.app")
    options = [
        "--pool=threads",
        f"--concurrency={WORKER_THREADS}",
        "--without-gossip",
        "--without-mingle",
        "--loglevel=INFO",
    ]
    app.worker_main(["worker", *options])


def _serve_jobs() -> None:
    # By name: its models exist only under the registry's settings.
    import_string("deploy.jobs.run_until_signalled")()


SERVE: dict[str, Callable[[], None]] = {
    "ingest": _serve_http,
    "worker": _serve_worker,
    "registry": _serve_http,
    "jobs": _serve_jobs,
    "portal": _serve_http,
}


def stop_with_parent() -> None:
    """Stop this process when the one that started it is gone: its end of our standard input closes then."""

    def watch() -> None:
        # Not sys.stdin: its lock would be held by this thread when the interpreter shuts down.
        while os.read(0, 1):
            pass
        if sys.platform == "win32":
            signal.raise_signal(signal.SIGTERM)
        else:
            # To the process, not to this thread: only that wakes a main thread that sleeps.
            os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=watch, name="stop with parent", daemon=True).start()
