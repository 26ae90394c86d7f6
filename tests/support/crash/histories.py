"""The successive contents of files, to check the contents after a crash."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from modelfs.store.index.tables import InodeNumber


@dataclass(eq=False)
class File:
    """The successive contents of a file, and the one that a crash cannot undo."""

    inode: InodeNumber
    states: list[bytes] = field(default_factory=lambda: [b""], repr=False)
    flushed: int = 0  # the content that the next commit makes durable, or a later one
    sealed: int = 0  # the same for a commit in progress
    durable: int = 0

    @property
    def content(self) -> bytes:
        return self.states[-1]

    def write(self, offset: int, data: bytes) -> None:
        self.states.append(overlaid(self.content, offset, data))

    def truncate(self, size: int) -> None:
        self.states.append(self.content[:size].ljust(size, b"\0"))

    def punch(self, start: int, stop: int) -> None:
        """Make a range zeros, up to the end."""
        stop = min(stop, len(self.content))
        if start < stop:
            self.write(start, bytes(stop - start))

    def check_recovered(self, found: bytes) -> None:
        """Assert that a crash may leave this content."""
        check_mixed(found, self.states[self.durable :])


def check_mixed(found: bytes, states: Sequence[bytes]) -> None:
    """Assert that each byte, and the size, is that of one of the contents."""
    if found in states:
        return
    lengths = [len(each) for each in states]
    assert min(lengths) <= len(found) <= max(lengths), f"{len(found)} bytes, and not {lengths}"
    was = np.zeros(len(found), np.bool_)
    for each in states:
        padded = each[: len(found)].ljust(len(found), b"\0")
        was |= np.frombuffer(found, np.uint8) == np.frombuffer(padded, np.uint8)
    (wrong,) = np.nonzero(~was)
    assert not len(wrong), f"byte {wrong[0]} is {found[wrong[0]]}, and {len(wrong) - 1} more"


def overlaid(content: bytes, offset: int, data: bytes) -> bytes:
    """Return a content after a write."""
    longer = content.ljust(offset + len(data), b"\0")
    return longer[:offset] + data + longer[offset + len(data) :]
