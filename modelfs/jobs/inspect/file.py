"""What a file consists of: its tensors, how each is stored, and what else uses the same chunks.

It has two halves, as reading has: `begin` copies what only the owner may look at, `finish` does the
work on any thread. The index says how often a chunk is used but not by whom, so `finish` looks for
other users among all extents of the store: not at all if there are none, and no further than to the
last of them. Memory is bounded by the file's own map: of each tensor's users only so many are kept.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Final

from modelfs.errors import InvalidArgument, IsADirectory
from modelfs.jobs.inspect.bases import Bases, User
from modelfs.jobs.inspect.report import Base, FileReport, FormShare, Sharer, TensorReport
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Chunk, Extent, Inode, TensorRow
from modelfs.store.index.tables import (
    KEY_MAX,
    ChunkId,
    InodeNumber,
    Table,
    pair_key,
    pair_of,
    tensor_key,
)
from modelfs.store.store import Store

STAGED: Final = "staged"
HOLE: Final = "hole"
MISSING: Final = "missing"  # the map refers to a chunk that the index does not have

# Users named for each tensor and for the file; what is beyond is only said to be there.
SHARERS_MAX: Final = 64
# Parts of one file that are told apart as users of the same chunk, such as one of zeros.
PARTS_MAX: Final = 256
ORDINAL_MAX: Final = (1 << 32) - 1
# What lies outside of every tensor.
REST: Final = -1


@dataclass(frozen=True, slots=True)
class FileState:
    """What `begin` found."""

    node: Inode
    staged: StagedFile


def inspect(store: Store, inode: InodeNumber) -> FileReport:
    """Report on a file as it is now. For the owner; takes as long as `finish` does.

    Raises:
        NotFound: no such inode.
        IsADirectory: it is a directory.
        InvalidArgument: it is neither a file nor a directory.
    """
    return finish(store, begin(store, inode))


def begin(store: Store, inode: InodeNumber) -> FileState:
    """Take a copy of a file's state. For the owner, and quick. Raises what `inspect` does."""
    node = store.inodes.get(inode)
    if stat.S_ISDIR(node.mode):
        raise IsADirectory("a directory has no content to inspect")
    if not stat.S_ISREG(node.mode):
        raise InvalidArgument("only regular files have content to inspect")
    return FileState(node, store.contents.snapshot(inode))


def finish(store: Store, subject: FileState) -> FileReport:
    """Report on a file as `begin` found it. Any thread; may take seconds in a large store."""
    anatomy = FileInspection(store, subject)
    anatomy.dissect()
    anatomy.find_sharers()
    return anatomy.report()


@dataclass(slots=True)
class _Sharers:
    """Other users, by inode and by their tensor's start and name, and the bytes they share."""

    bytes: Counter[User] = field(default_factory=Counter)
    more: bool = False

    def add(self, user: User, size: int) -> None:
        if user in self.bytes or len(self.bytes) < SHARERS_MAX:
            self.bytes[user] += size
        else:
            self.more = True


@dataclass(slots=True)
class _Part:
    """What a tensor, or the rest of the file, is made of."""

    forms: Counter[str] = field(default_factory=Counter)  # bytes of the file
    chunks: dict[ChunkId, RangeSet] = field(default_factory=dict)  # what it has of each
    sharers: _Sharers = field(default_factory=_Sharers)


class FileInspection:
    """The work of `finish`: what is known of the file so far."""

    def __init__(self, store: Store, subject: FileState) -> None:
        self._store = store
        self._inode = subject.node.inode
        self._node = subject.node
        self._staged = subject.staged
        self._rows = _tensor_rows(store, self._inode)
        self._parts: dict[int, _Part] = {number: _Part() for number in range(len(self._rows))}
        self._parts[REST] = _Part()
        self._records: dict[ChunkId, Chunk | None] = {}
        self._parts_of: dict[ChunkId, list[int]] = {}
        self._foreign: dict[ChunkId, int] = {}  # how many extents of other files use a chunk
        self._files = _Sharers()

    # -- the file itself

    def dissect(self) -> None:
        """Say of every byte in which part and which form it is."""
        for number, start, stop in _regions(self._rows, self._staged.size):
            self._dissect(self._parts[number], start, stop)
        for number, part in self._parts.items():
            for chunk in part.chunks:
                self._parts_of.setdefault(chunk, []).append(number)
        own = self._own_uses()
        for chunk, record in self._records.items():
            if record is not None and record.refs > own[chunk]:
                self._foreign[chunk] = record.refs - own[chunk]
        self._bases = Bases(self._store.chunks, self._records)

    def _dissect(self, part: _Part, start: int, stop: int) -> None:
        left = stop - start
        for size, extent in self._runs(start, stop):
            left -= size
            if extent is None:
                part.forms[STAGED] += size
            else:
                part.forms[self._form(extent.chunk)] += size
                ranges = part.chunks.setdefault(extent.chunk, RangeSet())
                ranges.add(extent.skip, extent.skip + extent.length)
        if left:
            part.forms[HOLE] += left

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, Extent | None]]:
        # The length and extent of everything that is no hole; no extent if it is staged.
        visible = self._staged.map_visible_to
        seen = stop if visible is None else min(stop, visible)
        at = start
        for _, low, high in self._staged.within(start, stop):
            yield from self._mapped(at, min(low, seen))
            yield high - low, None
            at = high
        yield from self._mapped(at, seen)

    def _mapped(self, start: int, stop: int) -> Iterator[tuple[int, Extent]]:
        if start < stop:
            for extent in self._store.maps.within(self._inode, start, stop):
                yield extent.length, extent

    def _form(self, chunk: ChunkId) -> str:
        if chunk not in self._records:
            self._records[chunk] = self._store.chunks.find(chunk)
        record = self._records[chunk]
        return MISSING if record is None else record.form

    def _own_uses(self) -> Counter[ChunkId]:
        # Of the whole map, what is staged over or cut off included: the index counts that too.
        extents = self._extents(self._inode, InodeNumber(self._inode + 1))
        return Counter(extent.chunk for _, extent in extents)

    # -- others

    def find_sharers(self) -> None:
        """Find who else uses the file's chunks, and who uses what they derive from."""
        for chunk, numbers in self._parts_of.items():
            if len(numbers) > 1:
                self._share_within(chunk, numbers)
            if chunk in self._bases.wanted:
                self._bases.found(chunk, self._own(numbers[0]))
        left = sum(self._foreign.values())
        names = _Names(self._store)
        for inode, extent in self._others():
            if extent.chunk in self._foreign:
                self._share((inode, *names.tensor_at(inode, extent.start)), extent)
                left -= 1
            if extent.chunk in self._bases.wanted:
                user = (inode, *names.tensor_at(inode, extent.start))
                self._bases.found(extent.chunk, user)
            if not left and not self._bases.wanted:
                return

    def _own(self, number: int) -> User:
        row = None if number == REST else self._rows[number]
        return (self._inode, row.start, row.name) if row else (self._inode, 0, None)

    def _share(self, user: User, extent: Extent) -> None:
        whole = RangeSet()
        for number in self._parts_of[extent.chunk][:PARTS_MAX]:
            part = self._parts[number]
            common = list(
                part.chunks[extent.chunk].within(extent.skip, extent.skip + extent.length)
            )
            if common:
                part.sharers.add(user, _length(common))
                for start, stop in common:
                    whole.add(start, stop)
        if whole:
            self._files.add((user[0], 0, None), whole.size)

    def _share_within(self, chunk: ChunkId, numbers: list[int]) -> None:
        for number in numbers[PARTS_MAX:]:
            self._parts[number].sharers.more = True
        for one, two in permutations(numbers[:PARTS_MAX], 2):
            user = self._own(two)
            ranges = self._parts[two].chunks[chunk]
            common = [
                pair
                for start, stop in ranges
                for pair in self._parts[one].chunks[chunk].within(start, stop)
            ]
            if common:
                self._parts[one].sharers.add(user, _length(common))

    def _others(self) -> Iterator[tuple[InodeNumber, Extent]]:
        if self._foreign or self._bases.wanted:
            yield from self._extents(InodeNumber(0), self._inode)
            yield from self._extents(InodeNumber(self._inode + 1), InodeNumber(KEY_MAX))

    def _extents(
        self, first: InodeNumber, end: InodeNumber
    ) -> Iterator[tuple[InodeNumber, Extent]]:
        rows = self._store.index.pages(Table.EXTENTS, pair_key(first, 0), pair_key(end, 0))
        for key, value in rows:
            inode, start = pair_of(key)
            yield InodeNumber(inode), Extent.from_bytes(start, value)

    # -- telling

    def report(self) -> FileReport:
        known = {chunk: record for chunk, record in self._records.items() if record is not None}
        others = self._bases.pinned(self._foreign).union(self._foreign)
        shared = sum(record.stored for chunk, record in known.items() if chunk in others)
        stored = sum(record.stored for record in known.values())
        paths = _Paths(self._store)
        return FileReport(
            path=paths[self._inode],
            inode=self._inode,
            format=self._node.format.name.lower(),
            size=self._staged.size,
            chunks=len(self._records),
            stored_bytes=stored,
            own_bytes=stored - shared,
            shared_bytes=shared,
            staged_bytes=self._staged.staged_bytes,
            forms=self._all_forms(known),
            tensors=tuple(
                self._tensor(row, self._parts[number], paths)
                for number, row in enumerate(self._rows)
            ),
            shared_with=_listed(self._files, paths),
            more_sharers=self._files.more,
        )

    def _all_forms(self, known: dict[ChunkId, Chunk]) -> tuple[FormShare, ...]:
        sizes = sum((part.forms for part in self._parts.values()), Counter[str]())
        stored = Counter[str]()
        for record in known.values():
            stored[record.form] += record.stored
        return tuple(FormShare(form, sizes[form], stored[form]) for form in sorted(sizes))

    def _tensor(self, row: TensorRow, part: _Part, paths: "_Paths") -> TensorReport:
        stored = Counter[str]()
        for chunk, ranges in part.chunks.items():
            if (record := self._records[chunk]) is not None:
                stored[record.form] += record.stored * ranges.size // record.size
        return TensorReport(
            name=row.name,
            dtype=row.dtype,
            shape=row.shape,
            start=row.start,
            bytes=row.size,
            stored_bytes=stored.total(),
            forms=tuple(
                FormShare(form, part.forms[form], stored[form]) for form in sorted(part.forms)
            ),
            shared_with=_listed(part.sharers, paths),
            more_sharers=part.sharers.more,
            derived_from=_named(self._bases.of(part.chunks.items()), paths),
        )


class _Names:
    """Finds the tensor at an offset of a file; quick where questions come in order."""

    def __init__(self, store: Store) -> None:
        self._index = store.index
        self._inode = InodeNumber(0)
        self._row: TensorRow | None = None

    def tensor_at(self, inode: InodeNumber, offset: int) -> tuple[int, str | None]:
        """Return the start and name of the tensor, 0 and None where there is none."""
        row = self._row
        if inode != self._inode or row is None or not row.start <= offset < row.start + row.size:
            self._inode, self._row = inode, self._find(inode, offset)
        return (0, None) if self._row is None else (self._row.start, self._row.name)

    def _find(self, inode: InodeNumber, offset: int) -> TensorRow | None:
        low, high = tensor_key(inode, 0, 0), tensor_key(inode, offset, ORDINAL_MAX)
        found = self._index.floor(Table.TENSORS, high, low)
        if found is None:
            return None
        row = TensorRow.from_bytes(pair_of(found[0])[1], found[1])
        return row if offset < row.start + row.size else None


class _Paths(dict[InodeNumber, str]):
    """A path of each inode, looked for once."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._namespace = store.namespace

    def __missing__(self, inode: InodeNumber) -> str:
        path = self[inode] = os.fsdecode(self._namespace.path_of(inode))
        return path


def _listed(sharers: _Sharers, paths: _Paths) -> tuple[Sharer, ...]:
    found = [
        (paths[inode], start, Sharer(paths[inode], tensor, size))
        for (inode, start, tensor), size in sharers.bytes.items()
    ]
    return tuple(sharer for _, _, sharer in sorted(found, key=lambda each: each[:2]))


def _named(users: Counter[User | None], paths: _Paths) -> tuple[Base, ...]:
    return tuple(
        Base(None, None, size) if user is None else Base(paths[user[0]], user[2], size)
        for user, size in users.most_common(SHARERS_MAX)
    )


def _tensor_rows(store: Store, inode: InodeNumber) -> list[TensorRow]:
    rows = store.index.pages(Table.TENSORS, pair_key(inode, 0), pair_key(inode + 1, 0))
    return [TensorRow.from_bytes(pair_of(key)[1], value) for key, value in rows]


def _regions(rows: Sequence[TensorRow], size: int) -> Iterator[tuple[int, int, int]]:
    """Tile the file: part number, start and stop of each tensor and of what lies between."""
    at = 0
    for number, row in enumerate(rows):
        start, stop = min(row.start, size), min(row.start + row.size, size)
        if at < start:
            yield REST, at, start
        if start < stop:
            yield number, start, stop
        at = max(at, stop)
    if at < size:
        yield REST, at, size


def _length(ranges: Iterable[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in ranges)
