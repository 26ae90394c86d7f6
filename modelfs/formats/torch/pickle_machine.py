"""The state of the machine that a pickle is a program for: its bytes, stack, marks and memo."""

from dataclasses import dataclass, field
from typing import Final

from modelfs.formats.budget import Borrowed
from modelfs.formats.layout import MalformedModel, ReadAt
from modelfs.formats.names import MAX_NAME
from modelfs.formats.torch.pickle_values import Global, Value
from modelfs.formats.torch.storage import Storages

WINDOW: Final = 1 << 16

# The memory of a place in the memo or in a tuple, of an integer or global in the memo, and of a
# tuple besides its places, in bytes.
PLACE: Final = 9
ATOM: Final = 36
TUPLE: Final = 64


class Source:
    """The pickle's bytes, read through a window."""

    def __init__(self, read_at: ReadAt, start: int, stop: int) -> None:
        self._read_at = read_at
        self._at = start
        self._stop = stop
        self._data = b""
        self._pos = 0

    def byte(self) -> int:
        if self._pos == len(self._data):
            self._fill(1)
        self._pos += 1
        return self._data[self._pos - 1]

    def number(self, size: int) -> int:
        return int.from_bytes(self.read(size), "little")

    def read(self, size: int) -> bytes:
        """Return the next bytes, no more than a window.

        Raises:
            MalformedModel: the pickle ends before.
        """
        if self._pos + size > len(self._data):
            self._fill(size)
        self._pos += size
        return self._data[self._pos - size : self._pos]

    def skip(self, size: int) -> None:
        self._pos += size
        if self._pos > len(self._data):
            self._at += self._pos - len(self._data)
            self._data, self._pos = b"", 0

    def line(self) -> str:
        stop = self._data.find(b"\n", self._pos)
        if stop < 0:
            self._fill(1)
            stop = self._data.find(b"\n", self._pos)
        if not 0 <= stop - self._pos <= MAX_NAME:
            raise MalformedModel("no end of a name in the pickle")
        return self.read(stop + 1 - self._pos)[:-1].decode(errors="replace")

    def _fill(self, size: int) -> None:
        """Have `size` bytes in the window, and more of them if there are."""
        more = b""
        if self._at < self._stop:
            more = self._read_at(self._at, min(WINDOW, self._stop - self._at))
        self._data, self._pos = self._data[self._pos :] + more, 0
        self._at += len(more)
        if len(self._data) < size:
            raise MalformedModel("the pickle ends early")


@dataclass(slots=True)
class Machine:
    """The stack and the memo, and the budgets of both."""

    source: Source
    storages: Storages
    work: Borrowed  # for values that are gone when the machine is
    tree: Borrowed  # for those that are part of its result
    stack: list[Value] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)  # sizes that the stack had
    memo: list[Value] = field(default_factory=list)

    def push_mark(self) -> None:
        self.marks.append(len(self.stack))
        self.work.reserve(PLACE)

    def pop_mark(self) -> list[Value]:
        """Return the values above the last mark, and remove both."""
        mark = self.marks.pop()
        self.work.give_back(PLACE)
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def memoize(self, index: int) -> None:
        """Put the value at the top of the stack into a place of the memo, at most the next one."""
        top = self.stack[-1]
        value = top if isinstance(top, str | int | Global) else None
        if index == len(self.memo):
            self.work.reserve(PLACE + ATOM if isinstance(value, int | Global) else PLACE)
            self.memo.append(value)
        else:
            self.memo[index] = value

    def release(self, value: Value) -> None:
        """Give back the memory of a value that was popped."""
        # Tuples within tuples within tuples are given back only at the end.
        if isinstance(value, tuple):
            for released in (value, *(inner for inner in value if isinstance(inner, tuple))):
                self.work.give_back(TUPLE + PLACE * len(released))
