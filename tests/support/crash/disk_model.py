"""A model of a disk: the contents that a power loss may leave, from recorded operations.

Writes of the kernel reach the disk in any order, or not at all, until an fsync returns. So every
sector, every name and every size of a file is, independently, that of the last fsync or of any
operation since. This is the rule of POSIX and not that of one file system: an fsync of a file does
not cover its name, which needs an fsync of the folder, and a removed file may be gone at once or
come back (the abstract persistence model of Pillai et al., "All file systems are not created
equal", OSDI 2014).

Example. A file has "old" when it is synced. "new" is written over it, and then the file is renamed.
After a power loss it has either content, under either name: four states. After an fsync of the file
it has "new", under either name.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, TypeVar

# A disk writes a sector whole or not at all. LMDB's meta pages depend on that.
SECTOR: Final = 512
PAGE: Final = 4096
# Units of bytes that are lost together: sectors, pages, or whole files.
UNITS: Final = (SECTOR, PAGE, 1 << 62)
# Weights of old, new and versions between: even, mostly old, mostly new, or none between.
ODDS: Final = ((1, 1, 1), (6, 1, 1), (1, 6, 1), (1, 1, 0))

T = TypeVar("T")
Node = int  # a file or a folder, independent of its name; no number is used twice
Tree = dict[str, bytes | None]  # path to content; None is a folder


@dataclass(frozen=True, slots=True)
class Create:
    """A name was created, for a node."""

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
    """A file was truncated or extended."""

    node: Node
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """An fsync returned: of a file's bytes and size, or of a folder's names."""

    node: Node


Operation = Create | Remove | Write | Resize | Sync
# Chooses the version that survives, from 0 for the oldest to 1 for the newest; called for a sector
# at an offset of a node, for a node's size (offset -1), and for a name.
Luck = Callable[[Node | str, int], float]


def nothing_more(_: Node | str, __: int) -> float:
    """Choose the oldest version: only synced operations survive."""
    return 0.0


def everything(_: Node | str, __: int) -> float:
    """Choose the newest version: the kernel lives on, or had just written everything."""
    return 1.0


class Chance:
    """Chooses at random, and alike for bytes of one unit."""

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
    """A file as of its last fsync, and the versions of its sectors and its size since."""

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
        # A write in progress extends a file step by step.
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
    """The operations on a folder, and every state that a crash may leave of it."""

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        """Begin with durable contents, which `operations` created."""
        self._files: dict[Node, File] = {}
        self._folders: dict[Node, str] = {}
        # Versions of each name since its folder's last fsync, oldest first. None: no such name.
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
        """Return the present node of each name."""
        newest = ((path, versions[-1]) for path, versions in self._names.items())
        return {path: node for path, node in newest if node is not None}

    def tree(self, luck: Luck) -> Tree:
        """Return the contents after a crash, as `luck` chooses."""
        found: Tree = {}
        for path in sorted(self._names):  # a folder before its contents
            node = version(self._names[path], luck(path, -1))
            if node is None or (path and folder_of(path) not in found):
                continue
            found[path] = None if node in self._folders else self._files[node].content(node, luck)
        return found


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def write_tree(tree: Tree, top: Path) -> None:
    """Create a folder with the contents of a tree."""
    for path in sorted(tree):
        if (content := tree[path]) is None:
            (top / path).mkdir()
        else:
            (top / path).write_bytes(content)
