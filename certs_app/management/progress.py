"""A progress bar on the terminal; nothing where standard error is none."""

import sys
import time

_WIDTH = 30
_ROOM = _WIDTH + 60


class Bar:
    """Shows how much is done, what is being done, and about how long it will take."""

    REDRAW_SECONDS = 0.1

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._began = time.monotonic()
        self._drawn = 0.0

    def show(self, done: float, doing: str) -> None:
        """Show a fraction from 0 to 1."""
        now = time.monotonic()
        if not self._shown or now - self._drawn < self.REDRAW_SECONDS:
            return
        self._drawn = now
        filled = "#" * round(done * _WIDTH)
        left = f"{(now - self._began) * (1 - done) / done:.0f} s left" if done > 0 else ""
        self._write(f"[{filled:{_WIDTH}}] {done:4.0%}  {doing}  {left}")

    def clear(self) -> None:
        if self._shown:
            self._write("")
            sys.stderr.write("\r")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r{text[:_ROOM]:{_ROOM}}")
        sys.stderr.flush()
