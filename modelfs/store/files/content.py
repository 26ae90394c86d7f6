"""File content: the committed map overlaid by what is staged.

Reading and writing have two halves. The first, on the thread that owns the store, says what is
where; it touches the index and no file content. The second moves the bytes and may run on any
thread. What the first half found stays readable until the second is done, whatever happens between.
"""

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.disk.descriptors import Descriptor, read_at, read_into
from modelfs.store.files.extent_cache import ExtentCache
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.files.staging import Staging
from modelfs.store.index.records import Chunk, ChunkKind, Inode
from modelfs.store.index.tables import ChunkId, InodeNumber
from modelfs.store.packs.pack import Packs


@dataclass(frozen=True, slots=True)
class HoleRun:
    """Zeros."""

    size: int


@dataclass(frozen=True, slots=True)
class FileRun:
    """Bytes that lie in a file as they are: staged ones, or plain chunks that were verified."""

    file: Descriptor
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class ChunkRun:
    """A part of a chunk that must be verified or decoded first."""

    chunk: ChunkId
    record: Chunk
    skip: int
    size: int

    @property
    def is_end(self) -> bool:
        """Whether the chunk ends with it."""
        return self.skip + self.size == self.record.size


ReadRun = HoleRun | FileRun | ChunkRun


class Contents:
    """What the bytes of each file are."""

    def __init__(
        self,
        inodes: Inodes,
        extents: ExtentCache,
        reader: ChunkReader,
        packs: Packs,
        staging: Staging,
    ) -> None:
        self._inodes = inodes
        self._extents = extents
        self._reader = reader
        self._packs = packs
        self._staging = staging

    def node(self, inode: InodeNumber) -> Inode:
        """Return the inode's record with the size and times that its staged content gives it."""
        node = self._inodes.get(inode)
        if (staged := self._staging.find(inode)) is None:
            return node
        return _overlaid(node, staged)

    def staged(self, inode: InodeNumber) -> StagedFile:
        """Return the content state to change, a new one if there is none."""
        if (found := self._staging.find(inode)) is not None:
            return found
        return self._staging.adopt(self.snapshot(inode))

    def snapshot(self, inode: InodeNumber) -> StagedFile:
        """Return a copy of the content state that any thread may plan reads with."""
        if (found := self._staging.find(inode)) is not None:
            return found.copy()
        node = self._inodes.get(inode)
        return StagedFile(inode, node.size, node.mtime_ns, node.ctime_ns, size_floor=node.size)

    # -- reading

    def plan(self, inode: InodeNumber, start: int, size: int) -> list[ReadRun]:
        """Say where the bytes from `start` on are: at most `size` of them, fewer at the end."""
        if (staged := self._staging.find(inode)) is not None:
            return self.plan_staged(staged, start, size)
        return self._plan(inode, None, start, min(start + size, self._inodes.get(inode).size))

    def plan_ahead(self, inode: InodeNumber, start: int, size: int) -> list[ReadRun]:
        """Do the same for bytes that nobody has asked for: fewer where they are cut very small."""
        return self.plan(inode, start, min(size, self._extents.reach(inode, start)))

    def plan_staged(self, staged: StagedFile, start: int, size: int) -> list[ReadRun]:
        """Do the same for a content state, which may be a copy. Then any thread may ask."""
        return self._plan(staged.inode, staged, start, min(start + size, staged.size))

    def _plan(
        self, inode: InodeNumber, staged: StagedFile | None, start: int, stop: int
    ) -> list[ReadRun]:
        runs: list[ReadRun] = []
        at = start
        for run_start, run in self._found(inode, staged, start, stop):
            if run_start > at:
                runs.append(HoleRun(run_start - at))
            _append(runs, run)
            at = run_start + run.size
        if at < stop:
            runs.append(HoleRun(stop - at))
        return runs

    def _found(
        self, inode: InodeNumber, staged: StagedFile | None, start: int, stop: int
    ) -> Iterator[tuple[int, ReadRun]]:
        # Everything but the holes, in order, with its offset in the file.
        if staged is None:
            yield from self._mapped(inode, start, stop)
            return
        at = start
        seen = stop if staged.map_visible_to is None else min(stop, staged.map_visible_to)
        for window, low, high in staged.within(start, stop):
            yield from self._mapped(inode, at, min(low, seen))
            file = self._staging.descriptor(inode, window)
            yield low, FileRun(file, low - window.start, high - low)
            at = high
        yield from self._mapped(inode, at, seen)

    def _mapped(self, inode: InodeNumber, start: int, stop: int) -> Iterator[tuple[int, ReadRun]]:
        if start >= stop:
            return
        for extent, record in self._extents.find(inode, start, stop):
            run: ReadRun
            if record.kind is ChunkKind.PLAIN and self._reader.is_verified(record):
                file = self._packs.descriptor(record.pack)
                run = FileRun(file, record.offset + extent.skip, extent.length)
            else:
                run = ChunkRun(extent.chunk, record, extent.skip, extent.length)
            yield extent.start, run

    def fill(self, runs: list[ReadRun], into: memoryview) -> None:
        """Read what was planned. Any thread.

        Raises:
            CorruptChunk: a chunk is damaged or missing.
            OSError: the backing disk failed.
        """
        at = 0
        for run in runs:
            self._fill_one(run, into[at : at + run.size])
            at += run.size

    def read(self, inode: InodeNumber, start: int, size: int) -> bytes:
        """Plan and read at once."""
        return self.gather(self.plan(inode, start, size))

    def gather(self, runs: list[ReadRun]) -> bytes:
        """Read what was planned into new memory. Any thread."""
        match runs:
            case [FileRun(file, offset, size)]:
                data = read_at(file, offset, size)
                _check_length(len(data), size)
                return data
            case [ChunkRun(chunk, record, 0, size)] if size == record.size:
                return self._reader.read(chunk, record)
        buffer = bytearray(sum(run.size for run in runs))
        self.fill(runs, memoryview(buffer))
        return bytes(buffer)

    def _fill_one(self, run: ReadRun, into: memoryview) -> None:
        match run:
            case HoleRun():
                into[:] = bytes(len(into))
            case FileRun(file, offset, _):
                _check_length(read_into(file, offset, into), len(into))
            case ChunkRun(chunk, record, skip, _):
                self._reader.read_into(chunk, record, skip, into)

    def is_ready(self, run: ChunkRun) -> bool:
        """Say whether there is nothing left for `prepare` to do. Any thread."""
        return self._reader.is_ready(run.chunk, run.record)

    def peek(self, run: ChunkRun) -> memoryview | None:
        """Return the bytes of a run that was decoded and is in memory still. Any thread."""
        content = self._reader.peek(run.chunk, run.record)
        return None if content is None else memoryview(content)[run.skip : run.skip + run.size]

    def evict(self, run: ChunkRun) -> None:
        """Keep a decoded chunk in memory no longer for somebody who has read it to its end."""
        self._reader.evict(run.chunk, run.record)

    def warm(self, run: ChunkRun) -> None:
        """Verify or decode what a later read will want. Any thread.

        Raises:
            CorruptChunk: it is damaged or missing.
            OSError: the backing disk failed.
        """
        self._reader.warm(run.chunk, run.record)


def _overlaid(node: Inode, staged: StagedFile) -> Inode:
    return Inode(
        node.inode,
        node.mode,
        node.uid,
        node.gid,
        node.nlink,
        staged.size,
        node.rdev,
        node.atime_ns,
        staged.mtime_ns,
        max(staged.ctime_ns, node.ctime_ns),
        node.parent,
        node.format,
    )


def _append(runs: list[ReadRun], run: ReadRun) -> None:
    # Neighbours in the file that are neighbours in a pack are read in one go.
    match (runs[-1] if runs else None, run):
        case (FileRun(last, offset, size), FileRun(file, start, more)) if (
            last is file and offset + size == start
        ):
            runs[-1] = FileRun(file, offset, size + more)
        case _:
            runs.append(run)


def _check_length(got: int, wanted: int) -> None:
    # Not zeros: what is staged was written, to its last byte.
    if got < wanted:
        raise OSError(errno.EIO, "a file of the store is shorter than the index says")
