"""What happens when: drawn from the seed before anything starts, so that a seed means the same plan every time."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.faults import BY_NAME, GROUPS, KINDS, Fault

BLOWS = (3, 6)
# How often two faults are in force at once.
TOGETHER = 0.3
# Seconds that injecting and healing take, mostly: a restart, a command.
HEALED_WITHIN = 4.0


@dataclass(frozen=True)
class Drawn:
    """One fault of the plan: its kind, and the seed of its own dice."""

    name: str
    seed: int

    @property
    def kind(self) -> type[Fault]:
        return BY_NAME[self.name]


@dataclass(frozen=True)
class Blow:
    """One fault, or two at once: injected in order, `gap` seconds apart, healed in reverse after `stands` seconds."""

    faults: tuple[Drawn, ...]
    gap: float
    stands: float
    pause: float


@dataclass(frozen=True)
class Scenario:
    """A handful of blows under continuous load; then the sums must agree."""

    number: int
    blows: tuple[Blow, ...]
    messages: int
    load_seed: int

    @property
    def name(self) -> str:
        return ", ".join("+".join(one.name for one in blow.faults) for blow in self.blows)

    @property
    def faults(self) -> int:
        return sum(len(blow.faults) for blow in self.blows)

    @property
    def seconds(self) -> float:
        """Estimate how long the blows take, rather too long: the load must not end before them."""
        return sum(blow.stands + blow.pause + blow.gap + HEALED_WITHIN * len(blow.faults) for blow in self.blows)


def kinds(wanted: Sequence[str]) -> list[type[Fault]]:
    """Return the kinds of fault that `wanted` names: names of faults or of groups; all when it names none.

    Raises ValueError for a name that is neither.
    """
    for name in wanted:
        if name not in BY_NAME and name not in GROUPS:
            raise ValueError(f"no fault and no group is called {name}; --list shows them")
    return [kind for kind in KINDS if not wanted or kind.name in wanted or kind.group in wanted]


def draw(seed: int, faults: int, messages: int, among: Sequence[type[Fault]]) -> list[Scenario]:
    """Draw scenarios with so many faults and messages in all."""
    dice = random.Random(seed)
    deck = _Deck(dice, among)
    blows: list[list[Blow]] = []
    while faults > 0:
        scenario: list[Blow] = []
        for _ in range(dice.randint(*BLOWS)):
            if faults <= 0:
                break
            scenario.append(_blow(dice, deck, most=faults))
            faults -= len(scenario[-1].faults)
        blows.append(scenario)
    share, rest = divmod(messages, len(blows))
    return [
        Scenario(number, tuple(scenario), share + (number <= rest), dice.getrandbits(32))
        for number, scenario in enumerate(blows, 1)
    ]


def _blow(dice: random.Random, deck: "_Deck", most: int) -> Blow:
    first = deck.next()
    chosen = [first]
    if most > 1 and dice.random() < TOGETHER:
        second = deck.next(apart_from=first.touches)
        if second is not None:
            chosen.append(second)
    stands = max(dice.uniform(*kind.stands) for kind in chosen)
    drawn = tuple(Drawn(kind.name, dice.getrandbits(32)) for kind in chosen)
    return Blow(drawn, dice.uniform(0.0, 1.0) * (len(chosen) - 1), stands, dice.uniform(0.1, 1.5))


class _Deck:
    """Every kind comes before any comes too often: shuffled, dealt to the end, shuffled again."""

    def __init__(self, dice: random.Random, among: Sequence[type[Fault]]) -> None:
        self._dice = dice
        self._all = [kind for kind in among for _ in range(kind.weight)]
        self._left: list[type[Fault]] = []

    def next(self, apart_from: frozenset[str] = frozenset()) -> type[Fault]:
        """Return the next kind that touches nothing of `apart_from`; None when no kind is like that."""
        for _ in range(2):
            for kind in self._left:
                if not kind.touches & apart_from:
                    self._left.remove(kind)
                    return kind
            self._left += self._dice.sample(self._all, len(self._all))
        return None
