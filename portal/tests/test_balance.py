"""The start page says in one line whether every accepted message is here."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from registry.models import QueueReport

MINUTE = timedelta(minutes=1)


@pytest.fixture
def now() -> datetime:
    return timezone.now()


@pytest.fixture
def said(people: Any, browser: Client) -> Callable[[], str]:
    """Return the line of the start page, without its tags."""
    people.issue("ingest", "ingest", usage="client")

    def read() -> str:
        page = browser.get("/").content.decode()
        lines = re.findall(r'<p class="balance" role="status">(.*?)</p>', page)
        return unescape(re.sub("<[^>]+>", "", lines[0])) if lines else ""

    return read


def report(now: datetime, **changes: Any) -> None:
    given = {"ingest": "ingest", "reported_at": now, "depth": 0, "held": 0, "dead": 0, "unaccounted": 0}
    QueueReport.objects.create(**{**given, "settled_until": now, **changes})


def test_it_says_until_when_everything_is_here(said: Callable[[], str], now: datetime) -> None:
    report(now)
    assert said() == f"complete Every message accepted until {now:%H:%M} is stored, queued or dead. Nothing is queued."


def test_another_day_is_said(said: Callable[[], str], now: datetime) -> None:
    before = now - timedelta(days=2)
    report(now, settled_until=before)
    assert f"until {before:%Y-%m-%d %H:%M} is stored" in said()


def test_it_says_how_long_the_queue_is_and_how_old(said: Callable[[], str], now: datetime) -> None:
    report(now, depth=1200, held=34, dead=2, oldest_at=now - 7 * MINUTE - timedelta(seconds=5))
    assert said().endswith("1,234 envelopes queued, the oldest 7 minutes ago, 2 dead.")


@pytest.mark.parametrize(("number", "words"), [(1, "1 message is"), (1500, "1,500 messages are")])
def test_it_says_how_many_are_missing(said: Callable[[], str], now: datetime, number: int, words: str) -> None:
    report(now, unaccounted=number)
    assert said().startswith(f"missing {words} unaccounted for")


def test_missing_stays_missing_when_the_report_is_old(said: Callable[[], str], now: datetime) -> None:
    report(now - 60 * MINUTE, unaccounted=1)
    assert said().startswith("missing 1 message is unaccounted for")


def test_an_old_report_is_called_old(said: Callable[[], str], now: datetime) -> None:
    report(now - 14 * MINUTE - timedelta(seconds=5))
    assert said().startswith("stale Whether every accepted message is here was last said 14 minutes ago, by ingest.")


def test_before_the_first_report_nothing_is_claimed(said: Callable[[], str], now: datetime) -> None:
    assert said().startswith("unknown No ingest has said yet")
    report(now, settled_until=None)
    assert said().startswith("unknown Whether every accepted message is here is being compared for the first time.")


def test_several_ingests_make_one_line(said: Callable[[], str], now: datetime, people: Any) -> None:
    people.issue("second", "ingest", usage="client")
    report(now, depth=1)
    report(now, ingest="second", depth=2, settled_until=now - 90 * MINUTE)
    assert f"{now - 90 * MINUTE:%H:%M} is stored" in said()
    assert said().endswith("3 envelopes queued.")
    QueueReport.objects.filter(ingest="second").update(reported_at=now - 6 * MINUTE)
    assert "by second." in said()


def test_an_ingest_that_was_taken_out_of_service_is_not_waited_for(
    said: Callable[[], str], now: datetime, people: Any
) -> None:
    people.issue("second", "ingest", usage="client")
    report(now)
    report(now - 99 * MINUTE, ingest="second")
    assert said().startswith("stale")
    people.revoke("second")
    assert said().startswith("complete")


def test_a_search_shows_messages_only(said: Callable[[], str], browser: Client, now: datetime) -> None:
    report(now)
    page = browser.post("/", {"sender": "+4915200000000"}).content.decode()
    assert 'class="balance"' not in page
