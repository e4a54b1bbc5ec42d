"""Index what is new, and make runs anew. Every step is one transaction, so a crash leaves what was there before."""

import logging
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain

from django.db import transaction
from django.db.models import Count

from registry.keyring import ring
from registry.models import Message
from registry.search import manifests, postings, sources, terms, words
from registry.search.models import (
    DIGEST_BYTES,
    SEGMENT_ROWS,
    Posting,
    Run,
    Unindexed,
    locator,
    locators,
    segment_of,
)
from registry.search.sources import Source, in_portions
from registry.search.terms import Term

logger = logging.getLogger(__name__)

# With fewer waiting, a search that opens them is quicker than one that looks into one more run.
WORTH_A_RUN = 64
# A search looks into every run of a segment: with as many as this, they become one.
MANY_RUNS = 32
# Lists of one run, about: whoever makes it holds them all in memory, some 300 bytes each. Ordinary segments have
# a tenth of that. Beyond are texts of nothing but different words: their segments have several runs.
MOST_LISTS = 1_000_000
# What one look for something to index takes, about: a segment takes some.
SECONDS = 10
_ROWS_A_STATEMENT = 1000
_NEVER = datetime.max.replace(tzinfo=UTC)


class Overtaken(Exception):
    """Somebody else indexed or removed some of the messages meanwhile; nothing was written."""


@dataclass
class Content:
    """What is to become one run: row numbers within the segment, ascending, and those of each term.

    `waiting` are the ids of messages that cannot be indexed before a key is back.
    """

    segment: int
    members: "array[int]" = field(default_factory=lambda: array("H"))
    lists: "dict[Term, array[int]]" = field(default_factory=dict)
    first_received: datetime = _NEVER
    last_received: datetime = _NEVER
    waiting: list[int] = field(default_factory=list)

    def ids(self) -> set[int]:
        """Return the row ids of the members."""
        return {self.segment * SEGMENT_ROWS + number for number in self.members}

    @classmethod
    def of(cls, segment: int, sources: Iterable[Source], most_lists: int | None = None) -> "Content":
        """Collect the terms of messages, given in the order of their ids; of the first ones, if all are too many."""
        content, times = cls(segment), []
        for source in sources:
            if source.lacks_key:
                content.waiting.append(source.row_id)
                continue
            number = source.row_id % SEGMENT_ROWS
            content.members.append(number)
            times.append(source.received_at)
            for term in source.terms():
                content.lists.setdefault(term, array("H")).append(number)
            if most_lists is not None and len(content.lists) >= most_lists:
                break
        if times:
            content.first_received, content.last_received = min(times), max(times)
        return content


def index_new(now: datetime) -> int:
    """Make stale runs anew and index what waits, one run a segment; return how many messages.

    It ends after some seconds, whatever is left: other periodic work has to go on.
    """
    until = time.monotonic() + SECONDS
    total = 0
    for segment in chain([*_stale(), *_waiting_segments()], _full()):
        try:
            total += _bring_up_to_date(segment, now)
        except Overtaken as error:
            logger.info("a part of the search index is left for later", extra={"reason": str(error)})
        if time.monotonic() > until:
            break
    return total


def _bring_up_to_date(segment: int, now: datetime) -> int:
    if Run.objects.filter(segment=segment, stale=True).exists():
        refresh(segment, now)
    waiting = _waiting_in(segment)
    added = _add_run(segment, waiting, now) if waiting else 0
    if _is_ripe(segment):
        refresh(segment, now)
    return added


def _stale() -> Iterator[int]:
    yield from Run.objects.filter(stale=True).order_by("segment").values_list("segment", flat=True).distinct()


def _full() -> Iterator[int]:
    """Yield the segments before the newest that have several runs still.

    Their last messages are indexed before the first of the next one: nobody could know by then that they are full.
    """
    newest = Run.objects.order_by("-segment").values_list("segment", flat=True).first() or 0
    runs = Run.objects.filter(segment__lt=newest).order_by("segment").values_list("segment").annotate(runs=Count("id"))
    yield from [segment for segment, _ in runs.filter(runs__gt=1)]


def _waiting_segments() -> Iterator[int]:
    """Yield the segments of which any message waits, the oldest first."""
    first = 0
    while True:
        waiting = Unindexed.objects.filter(message_id__gte=first).order_by("message_id")
        row_id = waiting.values_list("message_id", flat=True).first()
        if row_id is None:
            return
        yield segment_of(row_id)
        first = (segment_of(row_id) + 1) * SEGMENT_ROWS


def has_enough() -> bool:
    """Tell whether enough messages wait to be worth a run, or a run is stale."""
    waiting = Unindexed.objects.order_by("message_id").values_list("message_id")[WORTH_A_RUN - 1 : WORTH_A_RUN]
    return waiting.exists() or Run.objects.filter(stale=True).exists()


def _waiting_in(segment: int) -> list[int]:
    waiting = Unindexed.objects.filter(
        message_id__gte=segment * SEGMENT_ROWS, message_id__lt=(segment + 1) * SEGMENT_ROWS
    )
    return list(waiting.order_by("message_id").values_list("message_id", flat=True))


def _add_run(segment: int, waiting: Sequence[int], now: datetime) -> int:
    """Make a run of what waits, or of the first part of it: the next look finds the rest waiting."""
    content = Content.of(segment, sources.of_rows(waiting), MOST_LISTS)
    with transaction.atomic():
        _take_from_waiting(sorted(content.ids()))
        if content.members:
            _write(content, now)
    return len(content.members)


def _is_ripe(segment: int) -> bool:
    runs = Run.objects.filter(segment=segment).count()
    is_time = runs >= MANY_RUNS or (runs > 1 and Run.objects.filter(segment__gt=segment).exists())
    return is_time and len(_portions(segment)) < runs


def _portions(segment: int) -> list[list[int]]:
    """Return the runs of a segment by their ids, those together that make one run of at most MOST_LISTS."""
    portions: list[list[int]] = []
    room = 0
    for run, lists in Run.objects.filter(segment=segment).order_by("id").values_list("id", "lists"):
        if not portions or lists > room:
            portions.append([])
            room = MOST_LISTS
        portions[-1].append(run)
        room -= lists
    return portions


def rebuild(segment: int, now: datetime) -> int:
    """Make all runs of a segment anew, one if it is not too large; return how many messages. Raises Overtaken.

    What waits goes on waiting, and so does what was lost: in no run, and not waiting.
    """
    return _renew(segment, _portions(segment), now)


def refresh(segment: int, now: datetime) -> int:
    """Make anew what is stale, and one of the runs that fit together; return how many messages. Raises Overtaken."""
    stale = {*Run.objects.filter(segment=segment, stale=True).values_list("id", flat=True)}
    return _renew(segment, [runs for runs in _portions(segment) if len(runs) > 1 or stale.intersection(runs)], now)


def _renew(segment: int, portions: Sequence[Sequence[int]], now: datetime) -> int:
    others = Run.objects.filter(segment=segment).exclude(id__in=chain.from_iterable(portions))
    # A damaged index may list a message twice.
    total, seen = 0, _members(segment, list(others.values_list("id", flat=True)))
    for runs in portions:
        members = _members(segment, runs) - seen
        total += _remake(segment, runs, members, now)
        seen |= members
    _have_lost_wait(segment)
    return total


def _members(segment: int, runs: Sequence[int] | None = None) -> set[int]:
    """Return the ids of the messages that some runs of a segment list, or all of its runs."""
    listed = Run.objects.filter(segment=segment)
    if runs is not None:
        listed = listed.filter(id__in=runs)
    return {
        segment * SEGMENT_ROWS + number
        for run, members in listed.values_list("id", "members")
        for number in _numbers(run, bytes(members))
    }


def _numbers(run: int, members: bytes) -> list[int]:
    try:
        return list(postings.decode(members).descending())
    except ValueError:
        # It was changed past the registry. What it listed is lost then, and waits again.
        logger.error("a run of the search index does not say what is in it", extra={"run": run})
        return []


def _have_lost_wait(segment: int) -> None:
    with transaction.atomic():
        # As removal does: what it takes out meanwhile is not lost.
        list(Run.objects.filter(segment=segment).select_for_update().values_list("id"))
        # In this order: what is stored or indexed meanwhile is seen at least once.
        lost = sources.ids_of_segment(segment)
        lost -= {*_waiting_in(segment)}
        lost -= _members(segment)
        for some in in_portions(sorted(lost), _ROWS_A_STATEMENT):
            there = Message.objects.filter(id__in=some).select_for_update().values_list("id", flat=True)
            Unindexed.objects.bulk_create((Unindexed(message_id=row_id) for row_id in there), ignore_conflicts=True)


def _remake(segment: int, runs: Sequence[int], row_ids: set[int], now: datetime) -> int:
    """Make one run of some messages in place of some runs of a segment."""
    places = Run.objects.filter(segment=segment, id__in=runs).order_by("id")
    before = list(places.values_list("id", "stale"))
    content = Content.of(segment, sources.of_rows(sorted(row_ids)))
    ids = content.ids()
    with transaction.atomic():
        if list(places.select_for_update().values_list("id", "stale")) != before or len(before) != len(runs):
            raise Overtaken(f"the runs of segment {segment} changed meanwhile")
        if not ids | {*content.waiting} <= sources.ids_of_segment(segment):
            raise Overtaken(f"messages of segment {segment} were removed meanwhile")
        _remove(runs)
        waiting = {*_waiting_in(segment)}
        # In a damaged index as well: what is in a run does not wait.
        _take_from_waiting(sorted(ids & waiting))
        Unindexed.objects.bulk_create(Unindexed(message_id=row_id) for row_id in {*content.waiting} - waiting)
        if content.members:
            _write(content, now)
    return len(content.members)


def _remove(runs: Sequence[int]) -> None:
    for run in runs:
        Posting.objects.filter(locator__range=locators(run)).delete()
    Run.objects.filter(id__in=runs).delete()


def _take_from_waiting(row_ids: Sequence[int]) -> None:
    taken = 0
    for some in in_portions(row_ids, _ROWS_A_STATEMENT):
        taken += Unindexed.objects.filter(message_id__in=some).delete()[0]
    if taken != len(row_ids):
        raise Overtaken("some of these messages were indexed or removed meanwhile")


def _write(content: Content, now: datetime) -> None:
    key_id = ring().index.primary
    run = Run.objects.create(
        segment=content.segment,
        key_id=key_id,
        version=words.VERSION,
        messages=len(content.members),
        lists=len(content.lists),
        first_received=content.first_received,
        last_received=content.last_received,
        members=postings.encode(content.members, len(content.members)),
        digest=bytes(DIGEST_BYTES),
        made_at=now,
    )
    lists = {terms.token(term, key_id): rows for term, rows in content.lists.items()}
    run.digest = manifests.digest(run.pk, run.segment, key_id, content.members, lists)
    run.save(update_fields=["digest"])
    sealed = sorted(_sealed(lists, run))
    for some in in_portions(sealed, _ROWS_A_STATEMENT):
        Posting.objects.bulk_create(Posting(locator=place, sealed=blob) for place, blob in some)


def _sealed(lists: "Mapping[bytes, array[int]]", run: Run) -> Iterator[tuple[bytes, bytes]]:
    for token, rows in lists.items():
        place = locator(run.pk, terms.label(token, run.pk, run.key_id))
        yield place, postings.seal(rows, run.messages, terms.list_key(token, run.pk, run.key_id), run.pk)
