"""A progress bar with the time left on the terminal; nothing where standard error is none."""

import sys

import click

_STEPS = 1000


class Bar:
    """Shows how much is done, what is being done, and about how long it will take."""

    def __init__(self) -> None:
        self._bar = click.progressbar(
            length=_STEPS, file=sys.stderr, hidden=not sys.stderr.isatty(), item_show_func=lambda doing: doing
        )

    def show(self, done: float, doing: str) -> None:
        """Show a fraction from 0 to 1."""
        # Not update(): it draws nothing for less than a step, and what is being done changes as well.
        self._bar.make_step(round(done * _STEPS) - self._bar.pos)
        self._bar.current_item = doing
        self._bar.render_progress()

    def clear(self) -> None:
        """Leave the line."""
        self._bar.render_finish()
