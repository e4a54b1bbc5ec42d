"""Deliver an envelope to the registry, every 30 seconds until it succeeds."""

import logging
from typing import Any

from celery import Task, shared_task
from django.conf import settings

from ingest import dead_letters, metrics
from ingest.queue import TASK
from ingest.registry_client import REJECTED, RegistryError, RegistryRefusesUs, registry

logger = logging.getLogger(__name__)


@shared_task(name=TASK, bind=True, max_retries=None, acks_late=True, ignore_result=True)
def deliver(task: "Task[Any, Any]", envelope_id: str, envelope: str) -> None:
    """Post one sealed envelope. May run twice: the registry stores each message once."""
    try:
        with metrics.DELIVER_SECONDS.time():
            outcome = registry().register(envelope)
    except RegistryError as error:
        refused = isinstance(error, RegistryRefusesUs)
        metrics.DELIVERIES.labels("refused" if refused else "retried").inc()
        level = logging.ERROR if refused else logging.WARNING
        logger.log(
            level, "the registry did not take an envelope", extra={"envelope": envelope_id, "reason": str(error)}
        )
        raise task.retry(exc=error, countdown=settings.RETRY_SECONDS) from None
    if outcome.outcome == REJECTED:
        dead_letters.add(envelope_id, envelope, outcome.code)
    metrics.DELIVERIES.labels(outcome.outcome).inc()
    metrics.LAST_SUCCESS.set_to_current_time()
