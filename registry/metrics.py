"""What the registry counts."""

from prometheus_client import Counter, Histogram

ENVELOPES = Counter("msgsys_registry_envelopes_total", "Envelopes handled, by what became of them.", ["outcome"])
MESSAGES = Counter("msgsys_registry_messages_total", "Messages handled, by what became of them.", ["outcome"])
STATUS_UPDATES = Counter("msgsys_registry_status_updates_total", "Status updates handled.", ["outcome"])
UNREADABLE = Counter(
    "msgsys_unreadable_values_total",
    "Times a stored value did not open, or did not fit its row (column, reason).",
    ["column", "reason"],
)
REMOVED = Counter("msgsys_registry_removed_messages_total", "Messages removed: purged by age, or erased.", ["why"])
END_TO_END_SECONDS = Histogram(
    "msgsys_e2e_seconds",
    "Seconds from receipt at ingest to storage in the registry.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400),
)

for _outcome in ("stored", "duplicate", "rejected"):
    ENVELOPES.labels(_outcome)
for _outcome in ("stored", "duplicate"):
    MESSAGES.labels(_outcome)
for _outcome in ("recorded", "repeated", "backward", "unknown"):
    STATUS_UPDATES.labels(_outcome)
for _column in ("sender_number", "message_body", "client_reference"):
    for _reason in ("key_missing", "tampered", "malformed"):
        UNREADABLE.labels(_column, _reason)
UNREADABLE.labels("search_list", "tampered")
for _column in ("received_at", "sender_index", "status"):
    UNREADABLE.labels(_column, "mismatch")
for _why in ("purged", "erased"):
    REMOVED.labels(_why)
