"""What ingest and the worker count."""

from prometheus_client import Counter, Gauge, Histogram

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

DELIVERIES = Counter("msgsys_worker_envelopes_total", "Envelopes handled by the worker, by outcome.", ["outcome"])
DELIVER_SECONDS = Histogram("msgsys_worker_deliver_seconds", "Seconds one POST to the registry took.")
LAST_SUCCESS = Gauge("msgsys_worker_last_success_timestamp_seconds", "When the registry last took an envelope.")

for _outcome in ("stored", "duplicate", "rejected", "retried", "refused"):
    DELIVERIES.labels(_outcome)
for _outcome in ("accepted", "rejected"):
    MESSAGES.labels(_outcome)
