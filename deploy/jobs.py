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

from certs_app import ca_keys, expiry
from certs_app.audit import Actor
from certs_app.models import Issuer
from certs_app.revocation_lists import newest, publish, write_file
from registry import canaries, retention
from registry.search import building

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
    """Tell whether the newest list of an issuing CA that can sign is older than its reissue period, or from the future
    (the clock was set back since), or the file of lists is gone.
    """
    if not settings.CRL_FILE.exists():
        write_file()
    period = timedelta(minutes=settings.CRL_REISSUE_MINUTES)
    issuing = Issuer.objects.live(now).exclude(kind=Issuer.ROOT)
    # One whose key is gone is always due, and must not have all the others' lists made anew at every look.
    lists = [newest(issuer) for issuer in issuing if ca_keys.is_usable(issuer.name)]
    return any(crl is None or not crl.this_update <= now < crl.this_update + period for crl in lists)


def every(period: timedelta) -> Callable[[datetime], bool]:
    """Return a `due` for work that stores nothing: once in a period, and at each start."""
    last: list[datetime] = []

    def due(now: datetime) -> bool:
        if last and now - last[-1] < period:
            return False
        last[:] = [now]
        return True

    return due


_now_and_then = every(timedelta(minutes=10))


def index_due(now: datetime) -> bool:
    """Tell whether enough messages wait for the search index, or any for some minutes."""
    return building.has_enough() or _now_and_then(now)


_hourly = every(timedelta(hours=1))
# A long purge goes on at the next look, so that the other jobs have their turn.
_PURGE_SECONDS = 10.0
_purge_goes_on = threading.Event()


def purge_due(now: datetime) -> bool:
    """Tell whether an hour is over, or the last purge did not come to its end."""
    return _hourly(now) or _purge_goes_on.is_set()


def purge(now: datetime) -> None:
    """Remove what is older than it may be, for some seconds."""
    rules = retention.policy()
    if rules.keeps_all:
        return
    _purge_goes_on.set()
    _, finished = retention.purge(rules, now, Actor("jobs"), seconds=_PURGE_SECONDS)
    if finished:
        _purge_goes_on.clear()


JOBS = [
    Job("publish_crl", crl_due, publish),
    Job("watch_expiry", every(timedelta(minutes=1)), expiry.watch),
    Job("make_canaries", every(timedelta(minutes=1)), canaries.make_missing),
    Job("purge_messages", purge_due, purge),
    Job("index_messages", index_due, building.index_new),
]


def run_due(now: datetime) -> None:
    """Run every job that is due. A failing job is logged and tried again at the next look."""
    for job in JOBS:
        try:
            if job.due(now):
                job.run(now)
                logger.debug("a job ran", extra={"job": job.name})
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
