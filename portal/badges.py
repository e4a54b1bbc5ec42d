"""Small pieces of the admin's pages. A colour always stands beside a word: it is never the only sign."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

NEAR, SOON = timedelta(days=7), timedelta(days=30)

_DAY = 86_400
# The unit, its seconds, and how many of them there must be: "in 400 days" says more than "in 1 year".
_UNITS = (("year", 365 * _DAY, 2), ("day", _DAY, 1), ("hour", 3_600, 1), ("minute", 60, 1))

NOTHING = "-"
# Of a serial number or digest, enough to tell those of one list apart.
SHORT = 10


def pill(word: str, tone: str) -> SafeString:
    return format_html('<span class="pill {}">{}</span>', tone, word)


def nearness(until: datetime, now: datetime) -> str:
    """Return the class that colours an end: past (grey), near (red), soon (amber) or far (plain)."""
    if until <= now:
        return "past"
    if until - now <= NEAR:
        return "near"
    return "soon" if until - now <= SOON else "far"


def distance(at: datetime, now: datetime) -> str:
    """Say how far away a time is, in its largest unit: "in 12 days", "3 hours ago"."""
    seconds = abs((at - now).total_seconds())
    for unit, size, least in _UNITS:
        number = int(seconds // size)
        if number >= least:
            words = f"{number} {unit}" if number == 1 else f"{number} {unit}s"
            return f"in {words}" if at > now else f"{words} ago"
    return "now"


def expiry(until: datetime, now: datetime, *, in_force: bool = True) -> SafeString:
    """Show when something ends. What is not in force any more needs nobody's attention: it is grey, however near."""
    tone = nearness(until, now) if in_force else "past"
    words = '<span class="until {}"><time datetime="{}">{}</time> <span>{}</span></span>'
    return format_html(words, tone, until.isoformat(), f"{until:%Y-%m-%d}", distance(until, now))


def moment(at: datetime | None) -> SafeString | str:
    if at is None:
        return NOTHING
    words = '<time class="moment" datetime="{}"><span>{}</span> <span>{} UTC</span></time>'
    return format_html(words, at.isoformat(), f"{at:%Y-%m-%d}", f"{at:%H:%M:%S}")


def code(text: str) -> SafeString | str:
    return format_html('<span class="code">{}</span>', text) if text else NOTHING


def shortened(text: str) -> SafeString | str:
    """Show the start of a serial number or digest; the whole one appears when it is pointed at."""
    return format_html('<span class="code" title="{}">{}…</span>', text, text[:SHORT]) if text[SHORT:] else code(text)


def page_of(model: type[Model], pk: Any) -> str:
    """Return the address of a row's page in the admin."""
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[pk])


def link(address: str, text: str) -> SafeString:
    return format_html('<a href="{}">{}</a>', address, text)


def time_of(name: str, description: str) -> Callable[[Any, Any], SafeString | str]:
    """Make the method of a ModelAdmin that shows the time in this field."""

    @admin.display(description=description)
    def show(self: Any, row: Any) -> SafeString | str:
        return moment(getattr(row, name))

    return show


def code_of(name: str, description: str) -> Callable[[Any, Any], SafeString | str]:
    """Make the method of a ModelAdmin that shows this field as it is copied: whole, in letters of one width."""

    @admin.display(description=description)
    def show(self: Any, row: Any) -> SafeString | str:
        return code(getattr(row, name))

    return show
