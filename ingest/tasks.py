"""Deliver an envelope to the registry, every 30 seconds until it succeeds."""

import logging
import time
from typing import Any, NoReturn

from celery import Task, shared_task
from celery.exceptions import Reject
from django.conf import settings

from ingest import dead_letters, metrics, progress
from ingest.queue import TASK
from ingest.registry_client import REJECTED, RegistryRefusesUs, registry

logger = logging.getLogger(__name__)


class Batched(Task[Any, Any]):
    """A task whose messages are carried in batches."""

    Strategy = "ingest.delivery:strategy"


@shared_task(
    name=TASK,
    bind=True,
    max_retries=None,
    acks_late=True,
    ignore_result=True,
    base=Batched,
)
def deliver(task: Batched, envelope_id: str, envelope: str) -> None:
    """Post one sealed envelope. May run twice: the registry stores each message once.

    A worker of ours does not call this: its strategy posts envelopes in batches. It is what the task means, for
    whoever calls it directly or runs it over another broker.

    It ends in one of three ways only: stored, in the dead letters, or queued for the next try. Celery acknowledges a
    task that fails in any other way, which here would mean to lose the envelope.
    """
    try:
        _hand_over(envelope_id, envelope)
    except Exception as error:
        _count(error)
        _warn(envelope_id, error)
        _try_again_later(task, error)


def _hand_over(envelope_id: str, envelope: str) -> None:
    with metrics.DELIVER_SECONDS.time():
        (outcome,) = registry().register([envelope])
    if outcome.outcome == REJECTED:
        dead_letters.add(envelope_id, envelope, outcome.code)
    metrics.DELIVERIES.labels(outcome.outcome).inc()
    metrics.LAST_SUCCESS.set_to_current_time()


def _try_again_later(task: "Task[Any, Any]", error: Exception) -> NoReturn:
    """Queue the next try. While Redis refuses even that, hold the envelope: unacknowledged, it is in no danger."""
    while True:
        try:
            raise task.retry(exc=error, countdown=settings.RETRY_SECONDS)
        except Reject:
            # Celery's answer to a retry it cannot publish is to drop the message.
            logger.warning("the next try cannot be queued: Redis is full or away", extra={"task": task.request.id})
        if progress.wait_for_stop(settings.RETRY_SECONDS):
            raise Reject(error, requeue=True)


def _count(error: Exception) -> None:
    metrics.DELIVERIES.labels("refused" if isinstance(error, RegistryRefusesUs) else "retried").inc()


_warned = {"at": float("-inf")}


def _warn(envelope_id: str, error: Exception) -> None:
    """Log once per retry period: a backlog of thousands has one cause, not thousands."""
    if time.monotonic() - _warned["at"] < settings.RETRY_SECONDS:
        return
    _warned["at"] = time.monotonic()
    level = logging.ERROR if isinstance(error, RegistryRefusesUs) else logging.WARNING
    reason = f"{type(error).__name__}: {error}"
    logger.log(level, "envelopes are not delivered at the moment", extra={"envelope": envelope_id, "reason": reason})
