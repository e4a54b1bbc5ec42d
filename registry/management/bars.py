"""A progress bar with the time left, over the ids of a table."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def bar(label: str, newest: int, begin: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal; yield what tells it the last id that is done. It ends at the id `newest`."""
    last = begin
    with click.progressbar(
        length=max(0, newest - begin), label=label, file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as shown:

        def move(to: int) -> None:
            nonlocal last
            shown.update(to - last)
            last = to

        yield move
