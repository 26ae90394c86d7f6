"""What files contained, state after state, to tell what a crash may leave of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from modelfs.store.index.tables import InodeNumber


@dataclass(eq=False)
class File:
    """What a file's content was, state after state, and which state a crash cannot undo."""

    inode: InodeNumber
    states: list[bytes] = field(default_factory=lambda: [b""], repr=False)
    flushed: int = 0  # the state that the next commit makes durable, or a later one
    sealed: int = 0  # the same of a commit under way
    durable: int = 0

    @property
    def content(self) -> bytes:
        return self.states[-1]

    def write(self, offset: int, data: bytes) -> None:
        self.states.append(overlaid(self.content, offset, data))

    def truncate(self, size: int) -> None:
        self.states.append(self.content[:size].ljust(size, b"\0"))

    def check_recovered(self, found: bytes) -> None:
        """Assert that a crash could leave `found`."""
        check_mixed(found, self.states[self.durable :])


def check_mixed(found: bytes, states: Sequence[bytes]) -> None:
    """Assert that each byte of `found` is as it was in one of the states, and so is the size."""
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
    """Return what content is after a write."""
    longer = content.ljust(offset + len(data), b"\0")
    return longer[:offset] + data + longer[offset + len(data) :]
