"""What somebody writes into the search box for words: all of them must occur, and "quoted ones" one after the other."""

import re
from dataclasses import dataclass

from registry.search import terms, words
from registry.search.terms import Term

MAX_CHARACTERS, MAX_WORDS = 200, 16

_PARTS = re.compile(r'"([^"]*)"|([^"\s]+)')


class WordingError(ValueError):
    """Nothing can be looked for by this text. The message says what to write, and never repeats the text."""


@dataclass(frozen=True)
class Wording:
    """Phrases to look for; a single word is a phrase of one. Normalised."""

    phrases: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, text: str) -> "Wording":
        """Read what somebody wrote. Raises WordingError."""
        if len(text) > MAX_CHARACTERS:
            raise WordingError(f"Write {MAX_CHARACTERS} characters at most.")
        parts = [quoted or bare for quoted, bare in _PARTS.findall(text)]
        phrases = tuple(phrase for phrase in (tuple(words.split(part)) for part in parts) if phrase)
        if sum(map(len, phrases)) > MAX_WORDS:
            raise WordingError(f"Write {MAX_WORDS} words at most.")
        wording = cls(phrases)
        if not wording.terms():
            raise WordingError(f"Write at least one word of {words.MIN_CHARACTERS} characters or more.")
        return wording

    def terms(self) -> set[Term]:
        """Return what the index can be asked for. Words of one character are left to `fits`."""
        return terms.of_words(word for phrase in self.phrases for word in phrase)

    def is_only_words(self) -> bool:
        """Tell whether the terms say it all: no phrase, no word that the index knows only a part of."""
        return all(len(phrase) == 1 and words.indexable(phrase) == {*phrase} for phrase in self.phrases)

    def fits(self, body: str) -> bool:
        """Tell whether a body has all words and phrases."""
        split = words.split(body)
        having = set(split)
        return all(having.issuperset(phrase) and _has(split, phrase) for phrase in self.phrases)


def _has(split: list[str], phrase: tuple[str, ...]) -> bool:
    starts = (place for place, word in enumerate(split) if word == phrase[0])
    return any(tuple(split[place : place + len(phrase)]) == phrase for place in starts)
