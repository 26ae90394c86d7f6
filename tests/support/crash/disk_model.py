"""What a disk may hold after the loss of power: a model of it, fed with recorded operations.

What the kernel was told to write reaches the disk in any order, or not at all, until an fsync says
that it did. So every sector, every name and every file's size is, each on its own, what the last
fsync found there or what any operation since made of it. This is the rule of POSIX and not that of
one file system: an fsync of a file says nothing about its name, which needs one of the folder, and
what was removed may be gone at once or come back (the abstract persistence model of Pillai et al.,
"All file systems are not created equal", OSDI 2014).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, TypeVar

# A disk writes a sector whole or not at all. LMDB's meta pages rely on it.
SECTOR: Final = 512
PAGE: Final = 4096
# Bytes that share a fate: sectors, pages, or all of a file.
UNITS: Final = (SECTOR, PAGE, 1 << 62)
# How likely old, new, and whatever lies between: even, mostly old, mostly new, or old and new only.
ODDS: Final = ((1, 1, 1), (6, 1, 1), (1, 6, 1), (1, 1, 0))

T = TypeVar("T")
Node = int  # a file or a folder, whatever its name is; no number is used twice
Tree = dict[str, bytes | None]  # path to content; None is a folder


@dataclass(frozen=True, slots=True)
class Create:
    """A name was made, and what it names."""

    path: str
    node: Node
    is_folder: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """A name was removed."""

    path: str


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes were written to a file."""

    node: Node
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Resize:
    """A file was cut or made longer."""

    node: Node
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """An fsync returned: of a file's bytes and size, or of a folder's names."""

    node: Node


Operation = Create | Remove | Write | Resize | Sync
# Decides over what no fsync covered, from 0 for the oldest version to 1 for the newest; asked for
# the sector at an offset of a node, for a node's size (offset -1), and for a name.
Luck = Callable[[Node | str, int], float]


def nothing_more(_: Node | str, __: int) -> float:
    """Let nothing survive but what an fsync covered."""
    return 0.0


def everything(_: Node | str, __: int) -> float:
    """Let everything survive: the kernel lives on, or had just written it all."""
    return 1.0


class Chance:
    """Decides at random, and the same for bytes that share a fate."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._unit = random.choice(UNITS)
        self._odds = random.choice(ODDS)
        self._fates: dict[tuple[Node | str, int], float] = {}

    def __call__(self, of: Node | str, offset: int) -> float:
        key = (of, offset // self._unit)
        if key not in self._fates:
            choices = (0.0, 1.0, self._random.random())
            (self._fates[key],) = self._random.choices(choices, self._odds)
        return self._fates[key]


def version(versions: Sequence[T], fate: float) -> T:
    return versions[min(int(fate * len(versions)), len(versions) - 1)]


@dataclass(slots=True)
class File:
    """A file as its last fsync left it, and the versions of its sectors and its size since."""

    durable: bytes
    sizes: list[int]
    sectors: dict[int, list[bytes]] = field(default_factory=dict)

    def write(self, offset: int, data: bytes) -> None:
        stop = offset + len(data)
        for number in range(offset // SECTOR, -(-stop // SECTOR)):
            start = number * SECTOR
            low, high = max(start, offset), min(start + SECTOR, stop)
            old = self._newest(number)
            new = old[: low - start] + data[low - offset : high - offset] + old[high - start :]
            self._add(number, new)
        if stop > self.sizes[-1]:
            self.sizes.append(stop)

    def resize(self, size: int) -> None:
        for number in range(size // SECTOR, -(-self.sizes[-1] // SECTOR)):
            kept = self._newest(number)[: max(0, size - number * SECTOR)]
            self._add(number, kept.ljust(SECTOR, b"\0"))
        self.sizes.append(size)

    def sync(self) -> None:
        self.durable = self.content(0, everything)
        self.sizes = self.sizes[-1:]
        self.sectors.clear()

    def content(self, node: Node, luck: Luck) -> bytes:
        found = bytearray(self.durable.ljust(max(self.sizes), b"\0"))
        for number, versions in self.sectors.items():
            start = number * SECTOR
            found[start : start + SECTOR] = version(versions, luck(node, start))
        return bytes(found[: self._size(luck(node, -1))])

    def _size(self, fate: float) -> int:
        # A write that is under way makes a file longer bit by bit.
        step, part = divmod(fate * (len(self.sizes) - 1), 1)
        one, other = self.sizes[int(step)], self.sizes[min(int(step) + 1, len(self.sizes) - 1)]
        return one + int(part * (other - one))

    def _newest(self, number: int) -> bytes:
        if number in self.sectors:
            return self.sectors[number][-1]
        start = number * SECTOR
        return self.durable[start : start + SECTOR].ljust(SECTOR, b"\0")

    def _add(self, number: int, sector: bytes) -> None:
        if sector != (newest := self._newest(number)):
            self.sectors.setdefault(number, [newest]).append(sector)


class Disk:
    """Holds what operations made of a folder, and what else a crash may leave of it."""

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        """Begin with what is durable; `operations` made it."""
        self._files: dict[Node, File] = {}
        self._folders: dict[Node, str] = {}
        # Versions of each name since its folder's last fsync, oldest first. None: it is not there.
        self._names: dict[str, list[Node | None]] = {}
        for operation in operations:
            self.apply(operation)
        for node in [*self._files, *self._folders]:
            self.apply(Sync(node))

    def apply(self, operation: Operation) -> None:
        match operation:
            case Create(path, node, is_folder):
                self._names.setdefault(path, [None]).append(node)
                if is_folder:
                    self._folders[node] = path
                else:
                    self._files[node] = File(b"", [0])
            case Remove(path):
                self._names[path].append(None)
            case Write(node, offset, data):
                self._files[node].write(offset, data)
            case Resize(node, size):
                self._files[node].resize(size)
            case Sync(node) if node in self._files:
                self._files[node].sync()
            case Sync(node):
                self._sync_names(self._folders[node])

    def _sync_names(self, folder: str) -> None:
        for path, versions in self._names.items():
            if folder_of(path) == folder:
                self._names[path] = versions[-1:]

    def nodes(self) -> dict[str, Node]:
        """Return what each name names now."""
        newest = ((path, versions[-1]) for path, versions in self._names.items())
        return {path: node for path, node in newest if node is not None}

    def tree(self, luck: Luck) -> Tree:
        """Return what is there after a crash with that luck."""
        found: Tree = {}
        for path in sorted(self._names):  # a folder before what is in it
            node = version(self._names[path], luck(path, -1))
            if node is None or (path and folder_of(path) not in found):
                continue
            found[path] = None if node in self._folders else self._files[node].content(node, luck)
        return found


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def write_tree(tree: Tree, top: Path) -> None:
    """Make a folder that holds a tree."""
    for path in sorted(tree):
        if (content := tree[path]) is None:
            (top / path).mkdir()
        else:
            (top / path).write_bytes(content)
