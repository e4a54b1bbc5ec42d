"""Compare some minutes: what of them is stored, what waits, and what is nowhere. ingest.balance says when."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from uuid import UUID

from ingest.books import MINUTE_MS, Books, Missing, Range
from ingest.ledger_lines import Entry
from ingest.registry_client import RegistryAway, RegistryClient
from ingest.waiting import Waiting
from wire import sums
from wire.sums import NOTHING, Sum

HALF_SECOND_MS = 500
# What one call to the registry may ask.
MAX_RANGES = 120
MAX_IDS = 1000
# So many minutes are narrowed at a time: their half seconds are sums in memory.
NARROWED_AT_ONCE = 5

Sums = Mapping[str, Sum]
Ask = Callable[[Sequence[UUID]], set[UUID]]


class Stored:
    """The registry's answers. Raises RegistryError."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    def sums(self, ranges: Sequence[Range], key: bytes) -> dict[Range, Sums]:
        """Return the sums by client of ranges of one hour."""
        found: dict[Range, Sums] = {}
        left = list(ranges)
        while left:
            answer = self._client.balance(key=key.hex(), ranges=left[:MAX_RANGES]).ranges
            if not 1 <= len(answer) <= len(left):
                raise RegistryAway("the answer is not the registry's")
            for one, clients in zip(left, answer, strict=False):
                found[one] = {client: _sum(total.count, total.digest) for client, total in clients.items()}
            left = left[len(answer) :]
        return found

    def unknown(self, ids: Sequence[UUID]) -> set[UUID]:
        """Return those of at most MAX_IDS ids that are not stored as accepted by this ingest."""
        return set(self._client.balance(ids=[str(uid) for uid in ids]).unknown)

    def nowhere(self, ids: Sequence[UUID]) -> set[UUID]:
        """Return those of at most MAX_IDS ids that are not stored at all."""
        answer = self._client.balance(ids=[str(uid) for uid in ids])
        return set(answer.unknown) - set(answer.elsewhere)


def _sum(count: int, digest: str) -> Sum:
    try:
        return Sum(count, sums.read_digest(digest))
    except ValueError:
        raise RegistryAway("the answer is not the registry's") from None


class Comparison:
    """One pass over ranges that the registry's sums did not settle: what waits, and what is missing."""

    def __init__(self, books: Books, stored: Stored, waiting: Waiting, number: int) -> None:
        self._books = books
        self._stored = stored
        self._waiting = waiting
        self._number = number

    def compare(self, ranges: Iterable[Range]) -> None:
        """Settle what is settled by now, and note in the books what is found nowhere."""
        for hour, of_hour in itertools.groupby(ranges, key=lambda one: one.hour):
            asked = list(of_hour)
            found = self._stored.sums(asked, self._books.key(hour))
            queued = self._sums_of_waiting(hour, asked)
            unequal = [one for one in asked if not self._is_balanced(one, found[one], queued[one])]
            for start in range(0, len(unequal), NARROWED_AT_ONCE):
                self._narrow(hour, unequal[start : start + NARROWED_AT_ONCE], queued)

    def look_for_replays(self, some: Iterable[Sequence[Entry]]) -> None:
        """Forget what was answered again and is stored by now; suspect what is nowhere.

        Another ingest may have accepted it first, so it may be stored as that one's.
        """
        for entries in some:
            waiting = self._waiting.among(one.envelope for one in entries)
            gone = [one for one in entries if one.envelope not in waiting]
            lost = {one.id: one for one in self._not_found(gone, self._stored.nowhere)}
            with self._books.step():
                self._books.suspect(lost.values(), self._number)
                self._books.forget_replays(one for one in gone if lost.keys().isdisjoint(one.ids()))

    def count_waiting(self, ranges: Iterable[Range]) -> Counter[tuple[int, str, str]]:
        """Count the messages that wait, by hour, client and place."""
        counts: Counter[tuple[int, str, str]] = Counter()
        for hour, of_hour in itertools.groupby(ranges, key=lambda one: one.hour):
            for _, entry, place in self._entries(hour, list(of_hour)):
                if place is not None:
                    counts[hour, entry.client, place] += entry.messages
        return counts

    def _is_balanced(self, one: Range, stored: Sums, queued: Sums) -> bool:
        expected = self._books.expected(one)
        return all(
            stored.get(client, NOTHING) + queued.get(client, NOTHING) == expected.get(client, NOTHING)
            for client in {*expected, *stored}
        )

    def _sums_of_waiting(self, hour: int, ranges: Sequence[Range]) -> dict[Range, dict[str, Sum]]:
        totals: dict[Range, dict[str, Sum]] = {one: {} for one in ranges}
        key = self._books.key(hour)
        for one, entry, place in self._entries(hour, ranges):
            if place:
                more = sums.of_following(entry.first, entry.messages, key)
                totals[one][entry.client] = totals[one].get(entry.client, NOTHING) + more
        return totals

    def _narrow(self, hour: int, ranges: Sequence[Range], queued: Mapping[Range, Sums]) -> None:
        """Find the half seconds whose sums differ, and ask for the ids in them."""
        suspects: defaultdict[Range, int] = defaultdict(int)
        for found in self._unknown(hour, ranges, self._unequal_halves(hour, ranges)):
            suspects[_minute(found.start, ranges)] += 1
            self._books.suspect([found], self._number)
        # Nothing missing and nothing waiting: what differs is in the registry alone. It is asked again, after the ids.
        rest = [one for one in ranges if not suspects[one] and not queued[one]]
        for one, stored in self._stored.sums(rest, self._books.key(hour)).items():
            for client in {*stored, *self._books.slots(one)}:
                self._books.settle_as(one, client, stored.get(client, NOTHING))

    def _unequal_halves(self, hour: int, ranges: Sequence[Range]) -> set[Range]:
        key = self._books.key(hour)
        here: dict[Range, dict[str, Sum]] = {half: {} for one in ranges for half in _halves(one)}
        for _, entry, place in self._entries(hour, ranges):
            if not place:
                totals = here[_half(entry)]
                more = sums.of_following(entry.first, entry.messages, key)
                totals[entry.client] = totals.get(entry.client, NOTHING) + more
        there = self._stored.sums(list(here), key)
        return {half for half, totals in here.items() if totals != there[half]}

    def _unknown(self, hour: int, ranges: Sequence[Range], halves: set[Range]) -> Iterator[Missing]:
        """Yield the messages of these half seconds that neither wait nor are stored."""
        inside = self._entries(hour, ranges)
        gone = (entry for _, entry, place in inside if not place and _half(entry) in halves)
        return self._not_found(gone, self._stored.unknown)

    def _not_found(self, entries: Iterable[Entry], ask: Ask) -> Iterator[Missing]:
        """Ask for the ids of `entries`, MAX_IDS at a time; yield those that are not there and not given up."""
        messages = (Missing(uid, one.client, one.received_ms) for one in entries for uid in one.ids())
        while asked := {one.id: one for one in itertools.islice(messages, MAX_IDS)}:
            unknown = ask(list(asked))
            given_up = self._books.written_off(unknown)
            yield from (asked[uid] for uid in unknown - given_up if uid in asked)

    def _entries(self, hour: int, ranges: Sequence[Range]) -> Iterator[tuple[Range, Entry, str | None]]:
        """Yield the ledger's lines in these ranges, each with where its envelope waits, if it does."""
        by_start = {one.start: one for one in ranges}
        for entries in self._books.lines(hour):
            inside = [(by_start.get(entry.received_ms // MINUTE_MS * MINUTE_MS), entry) for entry in entries]
            waiting = self._waiting.among(entry.envelope for one, entry in inside if one)
            for one, entry in inside:
                if one is not None:
                    yield one, entry, waiting.get(entry.envelope)


def _halves(one: Range) -> Iterator[Range]:
    return (Range(start, start + HALF_SECOND_MS) for start in range(one.start, one.stop, HALF_SECOND_MS))


def _half(entry: Entry) -> Range:
    start = entry.received_ms // HALF_SECOND_MS * HALF_SECOND_MS
    return Range(start, start + HALF_SECOND_MS)


def _minute(at_ms: int, ranges: Iterable[Range]) -> Range:
    return next(one for one in ranges if one.start <= at_ms < one.stop)
