"""What a certificate was used for: asked before it is revoked."""

from datetime import datetime, timedelta

from django.db.models import Count, Max

from registry.models import Message

LATELY = timedelta(days=7)


def of_certificate(serial_number: str, now: datetime) -> str:
    """Say in one sentence what was sent with this certificate in the last seven days."""
    # By time first: that index exists, and a week is the part of the table that is read.
    lately = Message.objects.filter(received_at__gte=now - LATELY, certificate=serial_number)
    found = lately.aggregate(number=Count("id"), last=Max("received_at"))
    if not found["number"]:
        return "it sent no message in the last 7 days"
    return f"it sent {found['number']} messages in the last 7 days, the last on {found['last']:%Y-%m-%d %H:%M} UTC"
