"""File content: the committed map overlaid by staged ranges.

A read has two halves. `plan`, on the owner's thread, returns the *runs* that make up the range; it
reads the index and no file content. `fill` reads the bytes of these runs on any thread. A planned
run stays readable until it is dropped: it keeps the descriptor of its file, or `ChunkReader` finds
the new place of its chunk.

Example. A file of 300 bytes has chunk 7 for its first 200 bytes, and a program has just written 50
bytes at 100. `plan(0, 300)` returns a run of chunk 7 (bytes 0 to 100), a run of the staging file
(50 bytes), another of chunk 7 (bytes 150 to 200), and a hole of 100 bytes. Chunk 7 was verified
and is plain, so its runs are runs of the pack's file.
"""

import contextlib
import errno
from collections.abc import Callable

from modelfs.errors import BytesMoved, CorruptIndex, CorruptPack
from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.disk.descriptors import read_at, read_into
from modelfs.store.files.extent_cache import ExtentCache
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.overlay import overlay
from modelfs.store.files.read_runs import ChunkRun, FileRun, HoleRun, ReadRun, filled, parts
from modelfs.store.files.staged_file import StagedFile, with_staged_state
from modelfs.store.files.staging import Staging
from modelfs.store.files.window import Window
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import InodeNumber


class Contents:
    """Plans and does reads of files, and begins their staged states."""

    def __init__(
        self,
        inodes: Inodes,
        extents: ExtentCache,
        reader: ChunkReader,
        staging: Staging,
        has_totals: Callable[[], bool],
    ) -> None:
        """Open the contents of a store; `has_totals` returns whether its inodes have totals."""
        self._has_totals = has_totals
        self._inodes = inodes
        self._extents = extents
        self._complete_maps = extents.complete_maps
        self._reader = reader
        self._stored = reader.stored
        self._staging = staging

    def empty_caches(self) -> None:
        """Drop all extents and chunks from memory, and check maps again."""
        self._extents.clear()
        self._reader.forget_all()

    def node(self, inode: InodeNumber) -> Inode:
        """Return the inode's record, with the size and times of its staged state if it has one.

        Raises:
            NotFound: there is no such inode.
        """
        node = self._inodes.get(inode)
        staged = self._staging.find(inode)
        return node if staged is None else with_staged_state(node, staged)

    def is_whole(self, inode: InodeNumber) -> bool:
        """Whether a file's content is in a whole staging file, or will be after a change."""
        staged = self._staging.peek(inode)
        if staged is None:
            return self._staging.wholes.copies.is_in_use(inode)
        return staged.whole is not None

    def is_live(self, inode: InodeNumber) -> bool:
        """Whether programs may write to a file without a request."""
        staged = self._staging.peek(inode)
        return staged is not None and staged.whole is not None and staged.whole.live

    def allocated(self, node: Inode) -> int:
        """Return how many bytes of a file are not in a hole, as a result of `node`.

        Until staged bytes are in chunks, those that lie over mapped ones count twice, but never
        more than the size. In a store of format 1 to 3 inodes have no totals: it is the size.
        """
        if not self._has_totals():
            return node.size
        mapped = node.mapped
        if (staged := self._staging.peek(node.inode)) is not None:
            mapped = staged.map_end(mapped) + staged.staged_bytes
        return min(mapped, node.size)

    def staged(self, inode: InodeNumber) -> StagedFile:
        """Return a file's staged state, for changes. Begins one if the file has none.

        Raises:
            NotFound: there is no such inode.
            CorruptIndex: the file's records are damaged.
            OSError: a copy of the file cannot be opened.
        """
        if (staged := self._staging.find(inode)) is not None:
            return staged
        state = self.snapshot(inode)
        self._staging.wholes.resume(state)
        return self._staging.adopt(state)

    def snapshot(self, inode: InodeNumber) -> StagedFile:
        """Return a copy of a file's content state; any thread may plan reads with it.

        Raises: as `staged`.
        """
        if (staged := self._staging.find(inode)) is not None:
            return staged.copy()
        node = self._inodes.get(inode)
        self._staging.rows.check_none(node)
        return StagedFile(inode, node.size, node.mtime_ns, node.ctime_ns, size_floor=node.size)

    # -- reading

    def plan(self, inode: InodeNumber, start: int, size: int) -> list[ReadRun]:
        """Return the runs of up to `size` bytes from `start` on; fewer at the end of the file.

        Raises:
            NotFound: there is no such inode.
            CorruptIndex: the file's map or a chunk's record is damaged; beside a writer also if
                extents are missing, for which `fill` looks otherwise.
            OSError: a staging file cannot be opened.
        """
        if (staged := self._staging.find(inode)) is not None:
            return self.plan_staged(staged, start, size)
        node = self._inodes.get(inode)
        self._staging.rows.check_none(node)
        return self._plan(inode, None, start, min(start + size, node.size))

    def plan_ahead(self, inode: InodeNumber, start: int, size: int) -> list[ReadRun]:
        """Plan a read-ahead: as `plan`, but fewer bytes where the file is cut into tiny chunks."""
        return self.plan(inode, start, min(size, self._extents.reach(inode, start)))

    def plan_staged(self, staged: StagedFile, start: int, size: int) -> list[ReadRun]:
        """Plan a read of a content state: as `plan`. With a copy of the state, on any thread."""
        return self._plan(staged.inode, staged, start, min(start + size, staged.size))

    def _plan(
        self, inode: InodeNumber, staged: StagedFile | None, start: int, stop: int
    ) -> list[ReadRun]:
        runs: list[ReadRun] = []
        for low, high, source in overlay(inode, staged, start, stop, self._extents.find):
            if source is None:
                is_hidden = staged is not None and staged.hides_map(low)
                runs.append(HoleRun(high - low) if is_hidden else self._hole(inode, high - low))
            elif isinstance(source, Window):
                file = source.file.descriptor()
                _append(runs, FileRun(file, low - source.origin, high - low, source.file))
            else:
                extent, record = source
                is_plain = record.kind is ChunkKind.PLAIN
                pack = self._stored.verified_file(record) if is_plain else None
                if pack is None:
                    _append(runs, ChunkRun(extent.chunk, record, extent.skip, extent.length))
                else:
                    _append(runs, FileRun(pack, record.offset + extent.skip, extent.length))
        return runs

    def _hole(self, inode: InodeNumber, size: int) -> HoleRun:
        """Return the run of a hole in a map. A long check is left to `fill`, on a thread."""
        if self._complete_maps.trusts(inode):
            return HoleRun(size)
        if self._complete_maps.may_change:
            self._complete_maps.check(inode)  # at the commit that the plan is of
            return HoleRun(size)
        return HoleRun(size, inode)

    def lacks_extents(self, inode: InodeNumber) -> bool:
        """Whether extents of a file are missing, so that its holes may be none. Any thread."""
        try:
            self._complete_maps.check(inode)
        except CorruptIndex:
            return True
        return False

    def fill(self, runs: list[ReadRun], into: memoryview) -> None:
        """Read planned runs into `into`, which has their total size. Any thread.

        Raises:
            CorruptIndex: extents of the file are missing, so a hole may be none.
            CorruptChunk: a chunk is damaged or missing.
            LostBytes: the disk has lost staged bytes.
            BytesMoved: staged bytes are in chunks by now, so the read has to be planned again.
            OSError: the backing disk failed, or a file of the store is cut short.
        """
        for run, part in parts(runs, into):
            match run:
                case HoleRun(_, unchecked):
                    if unchecked is not None:
                        self._complete_maps.check(unchecked)
                    part[:] = bytes(len(part))
                case FileRun(file, offset):
                    length = read_into(file, offset, part)
                    run.check()
                    _check_length(run, length)
                case ChunkRun(chunk, record, skip, _):
                    self._reader.read_into(chunk, record, skip, part)

    def read(self, inode: InodeNumber, start: int, size: int) -> bytes:
        """Plan a read and do it on this thread. Raises as `plan` and `fill`, but no BytesMoved."""
        while True:
            with contextlib.suppress(BytesMoved):
                return self.gather(self.plan(inode, start, size))

    def gather(self, runs: list[ReadRun]) -> bytes:
        """Return the bytes of planned runs, in new memory. Any thread. Raises as `fill`."""
        match runs:
            case [FileRun(file, offset, size) as run]:
                data = read_at(file, offset, size)
                run.check()
                _check_length(run, len(data))
                return data
            case [ChunkRun(chunk, record, 0, size)] if size == record.size:
                return self._reader.read(chunk, record)
        return filled(sum(run.size for run in runs), lambda into: self.fill(runs, into))

    def is_ready(self, run: ChunkRun | HoleRun) -> bool:
        """Whether a run needs no `warm`, or no check of its map. Any thread."""
        if isinstance(run, HoleRun):
            return run.unchecked is None
        return self._reader.is_ready(run.chunk, run.record)

    def peek(self, run: ChunkRun) -> memoryview | None:
        """Return the bytes of a run if its decoded chunk is in memory. Any thread."""
        content = self._reader.peek(run.chunk, run.record)
        return None if content is None else memoryview(content)[run.skip : run.skip + run.size]

    def evict(self, run: ChunkRun) -> None:
        """Drop a run's decoded chunk from memory, because a reader has reached its end."""
        self._reader.evict(run.chunk, run.record)

    def warm(self, run: ChunkRun) -> None:
        """Verify or decode a run's chunk for a later read. Any thread.

        Raises:
            CorruptChunk: the chunk is damaged or missing.
            OSError: the backing disk failed.
        """
        self._reader.warm(run.chunk, run.record)


def _append(runs: list[ReadRun], run: ReadRun) -> None:
    # Runs that are neighbours in the file and in a pack become one, for one system call.
    match (runs[-1] if runs else None, run):
        case (FileRun(last, offset, size, staging_file), FileRun(file, start, more)) if (
            last is file and offset + size == start
        ):
            runs[-1] = FileRun(file, offset, size + more, staging_file)
        case _:
            runs.append(run)


def _check_length(run: FileRun, size: int) -> None:
    # An error, not zeros: every byte of a staged range was written.
    if size < run.size and run.staging_file is not None:
        raise OSError(errno.EIO, "a file of the store is cut short")
    # For a reader beside a writer gc may have moved the chunks since, and cut the pack.
    if size < run.size:
        raise CorruptPack(f"{run.file.path} ends at {run.offset + size}, inside a chunk")
