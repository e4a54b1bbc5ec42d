"""Envelopes the registry rejected for good: kept, counted, never dropped by themselves."""

import json
import logging
import time

from django.conf import settings

from ingest.queue import sync_queue

logger = logging.getLogger(__name__)


def add(envelope_id: str, envelope: str, code: str) -> None:
    """Keep a rejected envelope with the registry's reason. Raises redis.RedisError: the task then tries again."""
    entry = {"id": envelope_id, "code": code, "at": int(time.time()), "envelope": envelope}
    sync_queue().client.lpush(settings.DEAD_LETTER_QUEUE, json.dumps(entry))
    logger.error("an envelope went to the dead letters", extra={"envelope": envelope_id, "code": code})


def count() -> int:
    """Return how many there are."""
    length = sync_queue().client.llen(settings.DEAD_LETTER_QUEUE)
    assert isinstance(length, int)
    return length
