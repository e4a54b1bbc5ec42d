"""How many bytes a batch may have: as many as the way to the registry carries in time.

Otherwise a batch that takes longer than MSGSYS_REGISTRY_TIMEOUT would be tried again for ever.
"""

from django.conf import settings

MOST = 1 << 20
# A batch has one envelope all the same.
LEAST = 1 << 12


class BatchLimit:
    """Half of a batch that was not answered in time; twice one that was answered in less than half of it.

    It goes by that batch's size, so that several which shared a slow link count once.
    """

    def __init__(self) -> None:
        self.bytes = MOST

    def shrink(self, size: int) -> None:
        """Go below a batch of `size` bytes that was not answered in time."""
        self.bytes = max(LEAST, min(self.bytes, size // 2))

    def grow(self, size: int, seconds: float) -> None:
        """Go beyond a batch of `size` bytes that was answered after so many seconds."""
        if 2 * seconds < settings.REGISTRY_TIMEOUT:
            self.bytes = max(self.bytes, min(MOST, 2 * size))
