"""Whether the search index has what it must have, and nothing else.

What is only on its way is never taken for bad: while a run exists, nothing of it changes but that it becomes stale, so
one look at it afterwards tells.
"""

from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from registry import integrity
from registry.keyring import KeyMissing
from registry.models import Message
from registry.sealing import Tampered
from registry.search import manifests, postings, sources, terms, words
from registry.search.building import Content
from registry.search.models import LOCATOR_BYTES, SEGMENT_ROWS, Posting, Run, Unindexed, locator, locators
from registry.search.sources import Source, in_portions

_LOOKS = 3
_MOST_ROWS_NAMED = 10
_LISTS_A_PAGE = 2000
_IDS_A_STATEMENT = 500


def members(run: Run) -> list[int]:
    """Return the row numbers of a run, ascending. Raises ValueError when they are damaged."""
    return list(postings.decode(run.members).descending())[::-1]


def of_run(run: Run) -> list[str]:
    """Say what is wrong with a run."""
    try:
        wrong = list(_of_run(run))
    except KeyMissing:
        wrong = [f"it was made with index key {run.key_id}, which is not in the key ring"]
    unchanged = wrong and Run.objects.filter(id=run.pk, digest=run.digest, members=run.members, stale=False).exists()
    return wrong if unchanged else []


def _of_run(run: Run) -> Iterator[str]:
    if run.version != words.VERSION:
        yield f"it was made under version {run.version} of the words, which no search looks into"
        return
    try:
        numbers = members(run)
    except ValueError:
        yield "the list of its messages is damaged"
        return
    # Of these it is not known where they belong.
    unknown = set(numbers)
    content = Content.of(run.segment, _opened(run, numbers, unknown))
    gone = sorted(set(numbers).difference(content.members))
    if gone:
        yield f"{len(gone)} of its messages are gone: rows {_named(run, gone)}"
    lists = {terms.token(term, run.key_id): rows for term, rows in content.lists.items()}
    if not unknown:
        yield from _of_manifest(run, content, lists)
    yield from _of_lists(run, lists, unknown)


def _opened(run: Run, numbers: list[int], unknown: set[int]) -> Iterator[Source]:
    """Yield the run's messages; take those that open out of `unknown`."""
    start = run.segment * SEGMENT_ROWS
    for some in in_portions([start + number for number in numbers], _IDS_A_STATEMENT):
        for one in integrity.of_messages(Message.objects.filter(id__in=some)):
            if one.source.sender_number is not None and one.source.message_body is not None:
                unknown.discard(one.source.row_id - start)
            yield one.source


def _named(run: Run, numbers: list[int]) -> str:
    named = ", ".join(str(run.segment * SEGMENT_ROWS + number) for number in numbers[:_MOST_ROWS_NAMED])
    return named + (" …" if len(numbers) > _MOST_ROWS_NAMED else "")


def _of_manifest(run: Run, content: Content, lists: "Mapping[bytes, array[int]]") -> Iterator[str]:
    if len(content.members) != run.messages or len(lists) != run.lists:
        yield "it does not say how many messages and lists it has"
    if (content.first_received, content.last_received) != (run.first_received, run.last_received):
        yield "it does not say when its messages were received"
    if manifests.digest(run.pk, run.segment, run.key_id, content.members, lists) != run.digest:
        yield "its manifest does not fit: messages were added to it, taken from it or changed"


def _of_lists(run: Run, lists: "Mapping[bytes, array[int]]", unknown: Collection[int]) -> Iterator[str]:
    """Compare the stored lists, but for the rows in `unknown`."""
    expected = {locator(run.pk, terms.label(token, run.pk, run.key_id)): token for token in lists}
    found: Counter[str] = Counter()
    for place, sealed in _stored(run.pk):
        token = expected.pop(place, None)
        if token is None:
            # A word of a message that is gone or does not open.
            found["belong to none of its messages"] += not unknown
            continue
        try:
            rows = postings.unseal(sealed, terms.list_key(token, run.pk, run.key_id), run.pk)
        except Tampered:
            found["do not open: they were changed or moved"] += 1
            continue
        differ = set(rows.descending()) ^ set(lists[token])
        found["name other messages than they should"] += not differ.issubset(unknown)
    found["are missing"] = len(expected)
    for what, number in found.items():
        if number:
            yield f"{number} of its lists {what}"


def _stored(run: int) -> Iterator[tuple[bytes, bytes]]:
    first, last = locators(run)
    rows = Posting.objects.order_by("locator").values_list("locator", "sealed")
    page = list(rows.filter(locator__range=(first, last))[:_LISTS_A_PAGE])
    while page:
        yield from page
        page = list(rows.filter(locator__gt=page[-1][0], locator__lte=last)[:_LISTS_A_PAGE])


def misplaced(segment: int, rows: Collection[int]) -> dict[int, str]:
    """Return what is wrong by row id: rows of a segment that are not in exactly one place, and places without a row.

    `rows` are the ids read before; while messages come and go, what looks wrong is looked at again.
    """
    wrong = _misplaced(segment, rows)
    for _ in range(_LOOKS - 1):
        if wrong:
            again = _misplaced(segment, sources.ids_of_segment(segment))
            wrong = {row_id: what for row_id, what in again.items() if wrong.get(row_id) == what}
    return wrong


def _misplaced(segment: int, rows: Collection[int]) -> dict[int, str]:
    start = segment * SEGMENT_ROWS
    waiting = Unindexed.objects.filter(message_id__gte=start, message_id__lt=start + SEGMENT_ROWS)
    # In this order: a message moves from what waits into a run.
    waits = set(waiting.values_list("message_id", flat=True))
    places = Counter(waits)
    for run in Run.objects.filter(segment=segment):
        try:
            places.update(start + number for number in members(run))
        except ValueError:
            # It is named as a run; of its messages, nothing can be said.
            return {}
    wrong = dict.fromkeys(waits.difference(rows), "waits to be indexed and does not exist")
    for row_id in rows:
        if places[row_id] != 1:
            wrong[row_id] = f"is in {places[row_id] or 'none'} of the search index's places instead of one"
    return wrong


def without_run() -> Iterator[tuple[int, int]]:
    """Yield the numbers of runs that do not exist and yet have lists, and how many."""
    last = bytes(LOCATOR_BYTES)
    while (
        place := Posting.objects.filter(locator__gt=last).order_by("locator").values_list("locator", flat=True).first()
    ):
        run = int.from_bytes(place[:4])
        left = Posting.objects.filter(locator__range=locators(run))
        # It may have been made anew between one look and the next.
        if not _exists(run) and (number := left.count()) and not _exists(run):
            yield run, number
        last = locators(run)[1]


def _exists(run: int) -> bool:
    return Run.objects.filter(id=run).exists()
