"""Periodic work, done beside the registry and under its settings. Each job is also a command of its own."""

import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import close_old_connections
from django.utils import timezone
from prometheus_client import Counter, Gauge

from certs_app.models import Crl, Issuer
from certs_app.revocation_lists import publish, write_file

logger = logging.getLogger(__name__)

LOOK_EVERY = 5.0

LAST_SUCCESS = Gauge("msgsys_job_last_success_timestamp_seconds", "When the job last succeeded.", ["job"])
FAILURES = Counter("msgsys_job_failures_total", "Times the job failed.", ["job"])


@dataclass(frozen=True)
class Job:
    """Something to be done again and again. `due` looks at what is stored, so a restart repeats nothing."""

    name: str
    due: Callable[[datetime], bool]
    run: Callable[[datetime], object]


def crl_due(now: datetime) -> bool:
    """Tell whether the newest revocation list is older than its reissue period, or its file is gone."""
    newest = Crl.objects.filter(issuer__name=Issuer.ISSUING).order_by("-number").first()
    if newest is None:
        return True
    if not settings.CRL_FILE.exists():
        write_file()
    return now - newest.this_update >= timedelta(minutes=settings.CRL_REISSUE_MINUTES)


JOBS = [Job("publish_crl", crl_due, publish)]


def run_due(now: datetime) -> None:
    """Run every job that is due. A failing job is logged and tried again at the next look."""
    for job in JOBS:
        try:
            if job.due(now):
                job.run(now)
                logger.info("a job ran", extra={"job": job.name})
            LAST_SUCCESS.labels(job.name).set_to_current_time()
        except Exception as error:
            FAILURES.labels(job.name).inc()
            logger.exception("a job failed", extra={"job": job.name, "reason": type(error).__name__})


def run_until_signalled() -> None:
    """Look every few seconds for what is due, until SIGINT or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while not stop.is_set():
        run_due(timezone.now())
        close_old_connections()
        stop.wait(LOOK_EVERY)
