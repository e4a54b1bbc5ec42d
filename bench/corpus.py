"""Messages such as field systems send: words by Zipf's law, senders of which few send much. The same for a seed."""

import random
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

WORDS = 40_000
SENDERS = 150_000
_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
_COUNTRIES = ["+4915", "+4917", "+3933", "+3361", "+1415", "+4477", "+3466", "+4366"]


class Text(NamedTuple):
    """One message's personal data."""

    sender_number: str
    message_body: str


class Corpus:
    """Draws messages. Word number n, from 0, occurs about 1 / (n + 2.7) as often as one at n = 0 would."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311  test data
        self.words = [_word(number) for number in range(WORDS)]
        self._word_weights = list(accumulate(1 / (number + 2.7) for number in range(WORDS)))
        self._sender_weights = list(accumulate(1 / (number + 50) for number in range(SENDERS)))

    def draw(self, count: int) -> Iterator[Text]:
        """Yield `count` messages of 3 to 25 words."""
        for _ in range(count):
            words = self.random.choices(self.words, cum_weights=self._word_weights, k=self.random.randint(3, 25))
            sender = self.random.choices(range(SENDERS), cum_weights=self._sender_weights)[0]
            yield Text(number(sender), " ".join(words))


def number(sender: int) -> str:
    """Return the E.164 number of a sender."""
    scattered = sender * 7_919_513 % 10_000_000
    return f"{_COUNTRIES[sender % len(_COUNTRIES)]}{scattered:08d}"


def _word(number: int) -> str:
    """Spell a number by syllables: no two words are alike."""
    syllables = [_SYLLABLES[number % len(_SYLLABLES)]]
    while number := number // len(_SYLLABLES):
        syllables.append(_SYLLABLES[number % len(_SYLLABLES)])
    return "".join(syllables) + "n"
