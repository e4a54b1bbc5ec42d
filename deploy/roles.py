"""The processes of one machine, and how each is served."""

import sys
from collections.abc import Callable

from django.conf import settings
from django.utils.module_loading import import_string

from certs_app import upkeep
from certs_app.server import Listener, build_server
from certs_app.tls import TlsFiles
from deploy.behind_proxy import serve_at
from monitoring import exporter


def serve(role: str) -> None:
    """Serve `role` until SIGINT or SIGTERM. This process already runs under the role's own settings."""
    address = getattr(settings, "BEHIND_PROXY", None)
    if address is not None and SERVE[role] is _serve_http:
        serve_at(address, _begin)
        return
    _begin()
    SERVE[role]()


def _begin() -> None:
    """Start what every process does beside its service."""
    upkeep.start()
    exporter.start()
    for path in getattr(settings, "BESIDE", []):
        import_string(path)()


def _serve_http() -> None:
    pair = settings.SERVER_CERTIFICATE
    files = TlsFiles(pair["certificate"], pair["key"], settings.CA_FILE, settings.CRL_FILE)
    # People come to the portal with a browser and a password, everybody else with a certificate.
    listener = Listener(settings.HOST, settings.PORT, files, client_certificates=settings.ROLE != "portal")
    build_server(import_string(settings.ASGI_APPLICATION), listener).run()


def _serve_worker() -> None:
    app = import_string("msgsys_project.celery.app")
    import_string("ingest.reporting.start")()
    # Envelopes are carried by threads of our own; the pool has nothing to do.
    app.worker_main(["worker", "--pool=solo", "--without-gossip", "--without-mingle", "--loglevel=INFO"])
    sys.exit(import_string("ingest.progress.exit_code")())


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
