"""The users of a file's chunks, and of the chunks that those derive from.

The index counts the users of a chunk and does not list them. So the extents of all files are
searched, unless all uses are this file's own, and only up to the last use.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, permutations
from typing import Final, NamedTuple

from modelfs.errors import CorruptIndex
from modelfs.jobs.inspect.bases import (
    Records,
    Sources,
    derived_elsewhere,
    in_files,
    needed_elsewhere,
    sources_of,
)
from modelfs.jobs.inspect.layout import Part, records_of
from modelfs.store.index.index import Index
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import (
    KEY_MAX,
    ChunkId,
    InodeNumber,
    Table,
    pair_key,
    pair_of,
    tensor_key,
)
from modelfs.store.index.tensor_records import TensorRow
from modelfs.store.store import Store

# Users listed for each tensor and for the file. Of further ones the report has only a flag.
SHARERS_MAX: Final = 64
# Parts of one file that are compared as users of the same chunk, such as one of zeros.
PARTS_MAX: Final = 256
ORDINAL_MAX: Final = (1 << 32) - 1


class User(NamedTuple):
    """A tensor of a file that uses a chunk."""

    inode: InodeNumber
    start: int  # of the tensor, in bytes from the start of the file; 0 outside of tensors
    tensor: str | None


@dataclass(slots=True)
class Users:
    """Other users of some chunks, with the bytes of these that each one has."""

    bytes: Counter[User] = field(default_factory=Counter)
    more: bool = False  # there are others than those counted

    def add(self, user: User, size: int) -> None:
        if user in self.bytes or len(self.bytes) < SHARERS_MAX:
            self.bytes[user] += size
        else:
            self.more = True


@dataclass(frozen=True, slots=True)
class Sharers:
    """The users of a file's chunks beside the parts that have them."""

    parts: list[Users]  # of the chunks of each part, in the order of the parts
    files: Users  # of all chunks: other files as a whole
    derived: Users  # other files that derive chunks from the file's, with the bytes of those
    needed: set[ChunkId]  # chunks of the file that stay when it goes
    sources: Sources  # of the file's derived chunks
    source_users: dict[ChunkId, User]  # the first user of each source


def sharers_of(store: Store, inode: InodeNumber, parts: Sequence[Part]) -> Sharers:
    """Find the other users of a file's chunks, and the users of the chunks these derive from.

    Any thread; takes seconds in a large store.
    """
    records, lineage = records_of(parts), store.chunks.lineage
    foreign = _foreign_uses(store.index, inode, records)
    sources = sources_of(lineage, records)
    needed = needed_elsewhere(lineage, records, sources, foreign)
    sharers = Sharers([Users() for _ in parts], Users(), Users(), needed, sources, {})
    wanted = in_files(store.chunks, set(chain.from_iterable(sources.values())))
    owners: dict[ChunkId, list[int]] = {}
    for number, part in enumerate(parts):
        for chunk in part.chunks:
            owners.setdefault(chunk, []).append(number)
    for chunk, numbers in owners.items():
        _share_within(sharers, inode, parts, chunk, numbers)
        if chunk in wanted:
            sharers.source_users[chunk] = _user_of(inode, parts[numbers[0]])
            wanted.discard(chunk)
    # All uses of these are searched for, as those of shared chunks are.
    derived = derived_elsewhere(store.chunks, records)
    uses = {**foreign, **derived}
    for user, extent in _other_uses(store.index, inode, uses, wanted):
        if extent.chunk in derived:
            sharers.derived.add(User(user.inode, 0, None), extent.length)
        if extent.chunk in foreign:
            _share(sharers, user, parts, owners[extent.chunk], extent)
        if extent.chunk in wanted:
            sharers.source_users.setdefault(extent.chunk, user)
    return sharers


def _user_of(inode: InodeNumber, part: Part) -> User:
    tensor = part.tensor
    return User(inode, 0, None) if tensor is None else User(inode, tensor.start, tensor.name)


def _share_within(
    sharers: Sharers, inode: InodeNumber, parts: Sequence[Part], chunk: ChunkId, owners: list[int]
) -> None:
    """Let the parts of the file that have bytes of a chunk in common name each other."""
    for number in owners[PARTS_MAX:]:
        sharers.parts[number].more = True
    for left, right in permutations(owners[:PARTS_MAX], 2):
        ranges = parts[left].chunks[chunk].ranges
        size = sum(
            high - low
            for start, stop in parts[right].chunks[chunk].ranges
            for low, high in ranges.within(start, stop)
        )
        if size:
            sharers.parts[left].add(_user_of(inode, parts[right]), size)


def _share(
    sharers: Sharers, user: User, parts: Sequence[Part], owners: list[int], extent: Extent
) -> None:
    """Count the bytes of a user's extent that parts of the file have, too."""
    whole = RangeSet()
    for number in owners[:PARTS_MAX]:
        ranges = parts[number].chunks[extent.chunk].ranges
        common = RangeSet(ranges.within(extent.skip, extent.skip + extent.length))
        if common:
            sharers.parts[number].add(user, common.size)
            for start, stop in common:
                whole.add(start, stop)
    if whole:
        sharers.files.add(User(user.inode, 0, None), whole.size)


# -- the extents of all files


def _foreign_uses(index: Index, inode: InodeNumber, records: Records) -> dict[ChunkId, int]:
    """Return how many extents of other files use each chunk that any of them uses."""
    # The index counts the extents that are staged over or cut off, too.
    own = Counter(extent.chunk for _, extent in _extents(index, inode, InodeNumber(inode + 1)))
    return {
        chunk: record.refs - own[chunk]
        for chunk, record in records.items()
        if record is not None and record.refs > own[chunk]
    }


def _other_uses(
    index: Index, inode: InodeNumber, foreign: Mapping[ChunkId, int], wanted: Iterable[ChunkId]
) -> Iterator[tuple[User, Extent]]:
    """Yield each use of foreign chunks by other files, and the first use of each wanted one."""
    left, missing = sum(foreign.values()), set(wanted)
    if not left and not missing:
        return
    tensors = _TensorFinder(index)
    before = _extents(index, InodeNumber(0), inode)
    behind = _extents(index, InodeNumber(inode + 1), InodeNumber(KEY_MAX))
    for other, extent in chain(before, behind):
        if extent.chunk in foreign or extent.chunk in missing:
            yield User(other, *tensors.tensor_at(other, extent.start)), extent
            left -= extent.chunk in foreign
            missing.discard(extent.chunk)
            if not left and not missing:
                return


def _extents(
    index: Index, first: InodeNumber, end: InodeNumber
) -> Iterator[tuple[InodeNumber, Extent]]:
    # Damaged rows of other files are no reason to fail; of this one, its parts have failed before.
    rows = index.pages(Table.EXTENTS, pair_key(first, 0), pair_key(end, 0), damaged=set())
    for key, value in rows:
        inode, start = pair_of(key)
        yield InodeNumber(inode), Extent.from_bytes(start, value)


class _TensorFinder:
    """Finds the tensor at an offset of a file; quick if offsets come in order."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._inode = InodeNumber(0)
        self._row: TensorRow | None = None

    def tensor_at(self, inode: InodeNumber, offset: int) -> tuple[int, str | None]:
        """Return the start and name of the tensor, 0 and None where there is none."""
        row = self._row
        if inode != self._inode or row is None or not row.start <= offset < row.start + row.size:
            low, high = tensor_key(inode, 0, 0), tensor_key(inode, offset, ORDINAL_MAX)
            row = None
            with suppress(CorruptIndex):
                if (entry := self._index.floor(Table.TENSORS, high, low)) is not None:
                    row = TensorRow.from_bytes(pair_of(entry[0])[1], entry[1])
            if row is not None and offset >= row.start + row.size:
                row = None
            self._inode, self._row = inode, row
        return (0, None) if row is None else (row.start, row.name)
