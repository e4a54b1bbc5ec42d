"""What a thief of the database learns about words, by the attack that names them by their frequency.

The attacker holds the search tables and a large text like ours (the guide). He sorts what he sees by how often it seems
to occur, sorts the guide's terms by how often they do, and takes the first for the first, the second for the second.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime

import pytest
from django.utils import timezone

from bench.corpus import Corpus, Text
from registry.models import Message, Posting, Run
from registry.search import building, terms
from registry.search.sources import in_portions
from registry.search.terms import WORD, Term
from registry.storing import Arrival, store
from wire import ids, messages

MESSAGES, GUIDE = 16_000, 30_000


def terms_of(text: Text) -> set[Term]:
    return terms.of_number(text.sender_number) | terms.of_body(text.message_body)


def counted(texts: Iterator[Text]) -> Counter[Term]:
    return Counter(term for text in texts for term in terms_of(text))


def words_of(counts: Counter[Term]) -> Counter[Term]:
    return Counter({term: count for term, count in counts.items() if term.kind == WORD})


def by_frequency(counts: Counter[Term]) -> list[Term]:
    return sorted(counts, key=lambda term: (-counts[term], term))


def named(seen: Mapping[Term, int], guide: list[Term], truth: Counter[Term]) -> float:
    """Return the share of all postings whose term the attacker names, on the average over all ways to break ties."""
    alike: dict[int, set[Term]] = defaultdict(set)
    for term, size in seen.items():
        alike[size].add(term)
    right, place = 0.0, 0
    for size in sorted(alike, reverse=True):
        several = alike[size]
        guessed = guide[place : place + len(several)]
        right += sum(truth[term] for term in guessed if term in several) / len(several)
        place += len(several)
    return right / truth.total()


def sent(text: Text, now: datetime) -> messages.Message:
    return messages.Message(id=ids.new_id(now.timestamp()), client="alice", certificate="a1", **text._asdict())


@pytest.fixture
def truth(db: None) -> Counter[Term]:
    """Store and index the messages; return how often each term really occurs."""
    texts, now = list(Corpus(seed=1).draw(MESSAGES)), timezone.now()
    for some in in_portions(texts, 1000):
        store([Arrival.of(sent(text, now)) for text in some], now)
    building.index_new(now)
    return counted(iter(texts))


def sizes_in_the_dump(truth: Counter[Term]) -> dict[Term, int]:
    """Return the size of the list that stands for each term. Which one that is, only the key tells: it is the score
    card, not what the attacker knows.
    """
    lists = {bytes(posting.locator): len(posting.sealed) for posting in Posting.objects.all()}
    sizes: dict[Term, int] = defaultdict(int)
    for run in Run.objects.all():
        for term in truth:
            token = terms.token(term, run.key_id)
            place = run.pk.to_bytes(4) + terms.label(token, run.pk, run.key_id)
            sizes[term] += lists.get(place, 0)
    assert all(sizes.values()), "a term is not in the index"
    return sizes


def test_the_search_tables_do_not_tell_words_by_their_frequency(truth: Counter[Term]) -> None:
    guide = by_frequency(counted(Corpus(seed=2).draw(GUIDE)))
    assert Message.objects.count() == MESSAGES

    from_the_dump = named(sizes_in_the_dump(truth), guide, truth)
    # What the plain way keeps, a table of (keyed hash of the word, message), shows how often each occurs.
    from_plain_tokens = named(words_of(truth), [term for term in guide if term.kind == WORD], words_of(truth))

    assert from_the_dump <= 0.01
    assert from_plain_tokens >= 0.25, "the attack itself does not work: this test could not fail"
