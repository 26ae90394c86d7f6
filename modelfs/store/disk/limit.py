"""The limit of a store: bytes that it may use on its disk, as du(1) counts them.

A store that is larger than the limit when it is opened has the room of a reserve above its size, so
that gc can make it smaller. If its staged bytes have no room as chunks below the limit, it has the
room for these. Either is its *ceiling* until the store fits the limit again.

Example. A store of 120 MiB is opened with a limit of 100 MiB, whose reserve is 24 MiB. The ceiling
is 144 MiB: writers get nothing, and gc has 21 MiB. Files are removed, and a count finds 90 MiB: the
ceiling is 100 MiB from then on.
"""

from collections.abc import Callable

from modelfs.store.disk.reserve import Reserve, as_chunks
from modelfs.store.disk.usage import Usage


class Limit:
    """The limit of one store. Any thread.

    Attributes:
        size: of the limit, in bytes.
    """

    def __init__(
        self, size: int, usage: Usage, reserve: Reserve, staged: Callable[[], int]
    ) -> None:
        """Count the space that the store uses, and set the ceiling.

        Args:
            size: the most bytes that the store may use.
            usage: the space that it uses.
            reserve: of the limit.
            staged: returns the bytes that are not in chunks yet.
        """
        self.size = size
        self._usage = usage
        self._staged = staged
        usage.count()
        used = usage.bytes
        self._ceiling = used + reserve.size if used > size else size
        missing = as_chunks(staged()) - (self._ceiling - used - reserve.floor)
        self._ceiling += max(0, missing)

    @property
    def free(self) -> int:
        """Bytes that the store may use more; negative if it uses too many."""
        return self._ceiling - self._usage.bytes

    def count(self) -> None:
        """Count the space that the store uses. Walks over its folder."""
        self._usage.count()
        if self._usage.bytes + as_chunks(self._staged()) <= self.size:
            self._ceiling = self.size
