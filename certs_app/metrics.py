"""What the processes count of certificates and revocation lists."""

from prometheus_client import Counter, Gauge

CERTIFICATE_NOT_AFTER = Gauge(
    "msgsys_certificate_not_after_timestamp_seconds", "When this process' certificate expires.", ["certificate"]
)
RENEWALS = Counter(
    "msgsys_certificate_renewals_total",
    "Renewals of this process' certificates, by outcome (renewed, failed).",
    ["certificate", "outcome"],
)
CRL_NEXT_UPDATE = Gauge(
    "msgsys_crl_next_update_timestamp_seconds", "When the first of the revocation lists in use is out of date."
)
CRL_FETCHES = Counter(
    "msgsys_crl_fetches_total",
    "Looks for newer revocation lists at the registry, by outcome: newer, unchanged, refused (kept the last good), "
    "failed (no answer).",
    ["outcome"],
)
for _outcome in ("newer", "unchanged", "refused", "failed"):
    CRL_FETCHES.labels(_outcome)

CA_NOT_AFTER = Gauge("msgsys_ca_not_after_timestamp_seconds", "When a CA expires.", ["ca"])
EXPIRING = Gauge(
    "msgsys_certificates_expiring", "Certificates that expire within 30 days and whose owner has no later one."
)

HANDSHAKES_REFUSED = Counter("msgsys_tls_handshakes_refused_total", "TLS handshakes refused, by reason.", ["reason"])
CONNECTIONS_CLOSED = Counter(
    "msgsys_tls_connections_closed_total",
    "Open connections closed because their certificate no longer stands, by problem code.",
    ["reason"],
)
for _reason in ("certificate_revoked", "certificate_expired"):
    CONNECTIONS_CLOSED.labels(_reason)
