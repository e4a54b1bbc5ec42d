"""What ingest and the worker count."""

from collections.abc import Callable, Iterator

import redis
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wire.dead_letters import OTHER, REASONS

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

REQUESTS = Counter("msgsys_ingest_requests_total", "Submissions answered, by problem code or 'accepted'.", ["outcome"])
MESSAGES = Counter("msgsys_ingest_messages_total", "Messages, by whether they were accepted.", ["outcome"])
SECONDS = Histogram("msgsys_ingest_seconds", "Seconds to answer a submission.", buckets=_SECONDS)
COMMIT_SECONDS = Histogram("msgsys_ingest_commit_seconds", "Seconds to seal and queue one group.", buckets=_SECONDS)
GROUP_MESSAGES = Histogram(
    "msgsys_ingest_group_messages",
    "Messages that shared one round trip.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 500, 2000),
)

LEDGER_FAILURES = Counter("msgsys_ledger_failures_total", "Times the ledger could not be written to its disk.")
UNACCOUNTED = Gauge("msgsys_unaccounted_messages", "Accepted messages that are neither stored, queued nor dead.")
BALANCED_AT = Gauge(
    "msgsys_balance_last_success_timestamp_seconds", "When what was accepted was last compared with where it is."
)

DELIVERIES = Counter("msgsys_worker_envelopes_total", "Envelopes handled by the worker, by outcome.", ["outcome"])
DELIVER_SECONDS = Histogram("msgsys_worker_deliver_seconds", "Seconds one POST to the registry took.")
BATCH_ENVELOPES = Histogram(
    "msgsys_worker_batch_envelopes", "Envelopes in one POST to the registry.", buckets=(1, 2, 5, 10, 20, 50, 100)
)
BREAKER_REASONS = ("away", "configuration")
BREAKER_OPEN = Gauge("msgsys_worker_breaker_open", "1 while the worker waits for the registry, by reason.", ["reason"])
LAST_SUCCESS = Gauge("msgsys_worker_last_success_timestamp_seconds", "When the registry last took an envelope.")
DEAD_LETTERS_ADDED = Counter(
    "msgsys_dead_letters_total", "Envelopes this worker put among the dead letters, by the registry's reason.", ["code"]
)


class DeadLetters(Collector):
    """The gauge msgsys_dead_letters, read from Redis when it is asked for: every worker of a queue shows the same."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def describe(self) -> Iterator[Metric]:
        # Nothing: prometheus_client counts a counter's name without _total as taken, though the text format does not.
        return iter(())

    def collect(self) -> Iterator[Metric]:
        try:
            number = self._count()
        except (redis.RedisError, OSError):
            # No number rather than a wrong one; that Redis is away is what readiness says.
            return
        yield GaugeMetricFamily("msgsys_dead_letters", "Dead letters of this worker's queue.", number)


def count_dead_letter(code: str) -> None:
    """Count one. The registry may know codes that this version does not: they must not become time series."""
    DEAD_LETTERS_ADDED.labels(code if code in REASONS else OTHER).inc()


for _code in (*REASONS, OTHER):
    DEAD_LETTERS_ADDED.labels(_code)
for _outcome in ("stored", "duplicate", "rejected", "retried", "refused"):
    DELIVERIES.labels(_outcome)
for _reason in BREAKER_REASONS:
    BREAKER_OPEN.labels(_reason)
for _outcome in ("accepted", "rejected"):
    MESSAGES.labels(_outcome)
