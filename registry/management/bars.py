"""A progress bar over the ids of a table."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from certs_app.management.progress import Bar


@contextmanager
def bar(label: str, newest: int, begin: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield what tells the bar the last id that is done. It ends at the id `newest`."""
    shown, length = Bar(), max(1, newest - begin)
    try:
        yield lambda last: shown.show(min(1.0, (last - begin) / length), label)
    finally:
        shown.clear()
