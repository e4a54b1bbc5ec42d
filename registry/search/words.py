"""Words of a text, for the index and for the search box alike.

Unicode NFKC (UAX #15), then case folding, then runs of letters, digits and marks. Scripts that are written without
spaces become pairs of neighbouring characters. A change of these rules needs a new VERSION, and a new index.
"""

import itertools
import unicodedata
from collections.abc import Iterable, Iterator

import regex

VERSION = 1
MIN_CHARACTERS, MAX_CHARACTERS = 2, 32

# Marks belong to their letter (\w of UTS #18): without them, most words of Hindi fall apart.
_RUNS = regex.compile(r"(?V1)[\w--\p{Pc}]+")
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_IS_UNSPACED = regex.compile(rf"[{_UNSPACED}]")
_PARTS = regex.compile(rf"(?V1)(?P<unspaced>[[{_UNSPACED}]&&\w]+)|[\w--\p{{Pc}}--[{_UNSPACED}]]+")


def split(text: str) -> list[str]:
    """Return the words in their order, those of one character and long ones included: what phrases are compared by."""
    folded = _fold(text)
    runs: list[str] = _RUNS.findall(folded)
    if folded.isascii() or _IS_UNSPACED.search(folded) is None:
        return runs
    return list(itertools.chain.from_iterable(map(_parts, runs)))


def indexable(split: Iterable[str]) -> set[str]:
    """Return what is in the index for these: words of 2 characters or more, and of long ones the first 32."""
    return {word[:MAX_CHARACTERS] for word in split if len(word) >= MIN_CHARACTERS}


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    # Folding may undo the composition: "ǰ" becomes two characters.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _parts(run: str) -> Iterator[str]:
    for part in _PARTS.finditer(run):
        characters = part.group()
        if part.group("unspaced") is None or len(characters) == 1:
            yield characters
        else:
            yield from (characters[place : place + 2] for place in range(len(characters) - 1))
