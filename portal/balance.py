"""Is every accepted message here? What the ingests said last of their balance sheets, for the start page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from certs_app.models import Certificate
from portal.badges import distance
from registry.models import QueueReport

# They report every minute. Later than this, what they said is history.
STALE = timedelta(minutes=5)

GOOD, STALE_TONE, BAD = "delivered", "dispatched", "failed"


@dataclass(frozen=True)
class Line:
    """What to show: `word` and `tone` for the badge, then a sentence, then how the queue is."""

    word: str
    tone: str
    sentence: str
    queue: str


def line(now: datetime) -> Line:
    """Sum up the reports."""
    # Whoever has no certificate any more is out of service: nobody waits for its report.
    ingests = Certificate.objects.live(now).filter(role="ingest").values("name")
    reports = list(QueueReport.objects.filter(ingest__in=ingests))
    if not reports:
        return Line("unknown", STALE_TONE, "No ingest has said yet whether every accepted message is here.", "")
    return Line(*_verdict(reports, now), _queue(reports, now))


def _verdict(reports: Sequence[QueueReport], now: datetime) -> tuple[str, str, str]:
    unaccounted = sum(report.unaccounted for report in reports)
    if unaccounted:
        words = "1 message is" if unaccounted == 1 else f"{unaccounted:,} messages are"
        return "missing", BAD, f"{words} unaccounted for: accepted, but neither stored, queued nor dead."
    stale = [report for report in reports if now - report.reported_at > STALE]
    if stale:
        since = distance(min(report.reported_at for report in stale), now)
        names = ", ".join(sorted(report.ingest for report in stale))
        return "stale", STALE_TONE, f"Whether every accepted message is here was last said {since}, by {names}."
    moments = [report.settled_until for report in reports]
    until = min((moment for moment in moments if moment is not None), default=None)
    if until is None or None in moments:
        return "unknown", STALE_TONE, "Whether every accepted message is here is being compared for the first time."
    return "complete", GOOD, f"Every message accepted until {_clock(until, now)} is stored, queued or dead."


def _queue(reports: Sequence[QueueReport], now: datetime) -> str:
    waiting = sum(report.depth + report.held for report in reports)
    oldest = min((report.oldest_at for report in reports if report.oldest_at is not None), default=None)
    envelopes = "1 envelope" if waiting == 1 else f"{waiting:,} envelopes"
    parts = [f"{envelopes} queued" if waiting else "Nothing is queued"]
    if oldest is not None:
        parts.append(f"the oldest {distance(oldest, now)}")
    dead = sum(report.dead for report in reports)
    if dead:
        parts.append(f"{dead:,} dead")
    return ", ".join(parts) + "."


def _clock(at: datetime, now: datetime) -> str:
    return f"{at:%H:%M}" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M}"
