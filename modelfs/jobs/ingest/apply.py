"""The owner's half of ingest and of flushing: what changes the index and the staged state.

Everything here runs on the thread that owns the store, and quickly: the work that takes time is in
`Ingest.run`, `Staging.sync` and `ChunkWriter`, which run on any thread between a `begin` and its
`finish`.
"""

import dataclasses
import errno
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from modelfs.jobs.ingest.chunker import Piece
from modelfs.jobs.ingest.copies import CopyHints
from modelfs.jobs.ingest.external_data import ExternalData
from modelfs.jobs.ingest.worker import Pass, Step, next_full_region, next_region
from modelfs.store.chunks.table import Chunks
from modelfs.store.chunks.writer import WriteResult
from modelfs.store.files.content import Contents
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.staging import (
    StagedFile,
    Staging,
    Window,
    is_written,
    stamp_of,
    windows_of,
)
from modelfs.store.index.counters import NEXT_CHUNK, NEXT_PACK, Counters
from modelfs.store.index.index import KEY_END, Index
from modelfs.store.index.records import Chunk, Extent, Inode, PackRow
from modelfs.store.index.tables import (
    KEY_MAX,
    ChunkId,
    InodeNumber,
    Table,
    number_key,
    number_of,
    request_value,
)
from modelfs.store.packs.pack import Packs

# What is changed in one go, so that no request waits long: extents removed,
TRIM_SLICE: Final = 100
# extents put into a map, new chunks, and tensors' rows, which cost less.
EXTENTS_SLICE: Final = 100
CHUNKS_SLICE: Final = 200
ROWS_SLICE: Final = 1000
# What fdatasync(2) says when it has given up on bytes; not, say, that no descriptor was free.
LOST: Final = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Flush:
    """What a flush makes durable: a file's state when it began."""

    staged: StagedFile
    frozen: StagedFile
    superseded: tuple[Window, ...]
    began: float  # monotonic seconds

    @property
    def windows(self) -> list[Window]:
        return [each for each in self.frozen.windows.values() if each.dirty]


@dataclass(frozen=True, slots=True)
class Parts:
    """What of a store intake changes."""

    index: Index
    counters: Counters
    inodes: Inodes
    chunks: Chunks
    packs: Packs
    maps: FileMaps
    staging: Staging
    contents: Contents
    external_data: ExternalData
    copy_hints: CopyHints


class Intake:
    """Takes staged content into the index."""

    def __init__(self, parts: Parts) -> None:
        self._index = parts.index
        self._counters = parts.counters
        self._inodes = parts.inodes
        self._chunks = parts.chunks
        self._packs = parts.packs
        self._maps = parts.maps
        self._staging = parts.staging
        self._contents = parts.contents
        self._external_data = parts.external_data
        self._copy_hints = parts.copy_hints

    # -- flushing: staged bytes become durable where they are

    def begin_flush(self, inode: InodeNumber) -> Flush | None:
        """Freeze what is to be made durable; None if nothing is.

        Raises:
            OSError: an earlier flush of it failed.
        """
        staged = self._staging.find(inode)
        if staged is None or not staged.dirty:
            return None
        if staged.failed:
            raise OSError(errno.EIO, f"what was written to inode {inode} could not be stored")
        return Flush(staged, staged.copy(), tuple(staged.superseded), time.monotonic())

    def fail_flush(self, flush: Flush, why: OSError) -> None:
        """Note that the windows of a flush could not be made durable.

        The kernel tells of a page that it could not write once, and then takes it for clean. So
        no later flush of the same bytes may say that they are durable, and ingest may not read
        them again: until the file is written anew, its fsync fails.
        """
        if why.errno not in LOST:
            return
        for window in flush.windows:
            now = flush.staged.windows.get(window.number)
            if now is not None and now.generation == window.generation:
                now.failed = True

    def finish_flush(self, flush: Flush) -> bool:
        """Put into the index what `Staging.sync` made durable.

        Returns:
            False if the file was cut, ingested, or flushed by another meanwhile: what was frozen
            may be older than what the index has, and the flush has to be done again.
        """
        staged, frozen = flush.staged, flush.frozen
        if self._staging.find(staged.inode) is not staged:
            return True  # ingest was faster, and wrote all of it
        if staged.generation != frozen.generation:
            return False
        with self._index.change():
            node = self._inodes.get(staged.inode)
            self._inodes.put(
                dataclasses.replace(
                    node, size=frozen.size, mtime_ns=frozen.mtime_ns, ctime_ns=_ctime(node, frozen)
                )
            )
            self._conceal(staged.inode, frozen.map_visible_to)
            for window in flush.windows:
                self._staging.record(staged.inode, window, window.ranges)
            self._drop_superseded(staged, flush.superseded)
        for window in flush.windows:
            now = staged.windows[window.number]
            now.dirty = now.stamp != window.stamp
        staged.size_floor = min(staged.size, frozen.size)
        staged.generation += 1
        staged.dirty = staged.differs(frozen)
        staged.dirty_since = flush.began
        return True

    # -- ingest

    def begin_pass(self, inode: InodeNumber, *, complete: bool) -> Pass:
        models = self._external_data.models_naming(inode) - {inode}
        copies = {model: self._contents.snapshot(model) for model in models}
        staged = self._staging.find(inode)
        windows = {} if staged is None else staged.windows
        versions = {number: window.stamp for number, window in windows.items()}
        request = self._index.get(Table.PENDING, number_key(inode))
        return Pass(inode, complete, copies, request, versions=versions)

    def requested(self) -> list[InodeNumber]:
        """Return the files to be cut anew because a model that names them arrived."""
        rows = self._index.scan(Table.PENDING, b"", KEY_END)
        return [InodeNumber(number_of(key)) for key, _ in rows]

    def begin_step(self, walk: Pass) -> Step | None:
        """Return the next region's step; None when the pass is at its end, or the file is gone."""
        if self._inodes.find(walk.inode) is None:
            return None
        staged = self._contents.snapshot(walk.inode)
        if walk.complete:
            region = next_region(staged, self._maps, walk.position)
        else:
            region = next_full_region(staged, walk.position)
        return None if region is None else Step(walk, staged, *region)

    def publish(
        self, written: WriteResult, admits: Callable[[ChunkId, Chunk], bool] | None = None
    ) -> bool:
        """Take over a slice of what a writer stored; say whether that is all of it.

        Before the steps that point to it are finished. A chunk that was taken without them is dead.

        Args:
            written: what the writer returned.
            admits: whether a chunk may be moved as written; nothing else moved it meanwhile.
        """
        added, moved = written.next_slice(CHUNKS_SLICE)
        with self._index.change():
            self._vouch(written)
            for chunk in added:
                self._chunks.add(chunk, written.added[chunk])
            for chunk in moved:
                record = written.moved[chunk]
                if self._chunks.find(chunk) is not None and (
                    admits is None or admits(chunk, record)
                ):
                    self._chunks.move(chunk, record, written.sources.get(chunk))
        self._packs.published()
        written.tails.clear()
        written.drop(added, moved)
        return not (written.added or written.moved)

    def _vouch(self, written: WriteResult) -> None:
        # With the first slice, for all of them: what was appended is there, and its numbers taken.
        for tail in written.tails.values():
            row = self._chunks.pack_row(tail.pack)
            self._chunks.put_pack_row(tail.pack, PackRow(tail.stop, row.live))
            if tail.pack >= self._counters.get(NEXT_PACK):
                self._counters.set(NEXT_PACK, tail.pack + 1)
        if written.tails and written.added:
            self._counters.set(NEXT_CHUNK, max(written.added) + 1)

    def finish_step(self, step: Step) -> bool:
        """Put a slice of a step's extents into the map; say whether that is all of them.

        With the last one, the windows that they replace are dropped. Until then the windows lie
        above the map, so that a crash, or a write, between two slices finds the bytes in either.
        After `take_written`.
        """
        walk = step.walk
        staged = self._staging.find(walk.inode)
        if self._inodes.find(walk.inode) is None:
            walk.done = True
            return True
        stop = step.applied + EXTENTS_SLICE
        with self._index.change():
            if staged is not None:
                self._admit(staged)
            self._apply(step, staged, stop)
            if staged is not None:
                self._conceal(staged.inode, staged.map_visible_to)
            if staged is not None and stop >= len(step.extents):
                self._drop_replaced(step, staged)
        if staged is not None:
            _admitted(staged)
        step.applied = stop
        if stop < len(step.extents):
            return False
        walk.position = step.stop
        return True

    def _drop_replaced(self, step: Step, staged: StagedFile) -> None:
        # Not before the last slice: as long as a superseded window's row is there, the inode record
        # must not say that the file reaches so far again.
        replaced = self._replaced(step, staged)
        self._advance(staged, replaced)
        self._conceal(staged.inode, staged.map_visible_to)
        # Last: what is dropped from memory does not come back if the change fails.
        self._drop_superseded(staged, staged.superseded)
        self._staging.drop(staged, replaced)

    def note_tensors(self, walk: Pass) -> bool:
        """Change a slice of a file's tensor rows; say whether that is all of them."""
        changes, walk.rows = walk.rows[:ROWS_SLICE], walk.rows[ROWS_SLICE:]
        with self._index.change():
            for key, value in changes if self._inodes.find(walk.inode) is not None else ():
                if value is None:
                    self._index.delete(Table.TENSORS, key)
                else:
                    self._index.put(Table.TENSORS, key, value)
        return not walk.rows

    def end_pass(self, walk: Pass) -> None:
        """Note the format, and forget the staged state if nothing is left of it."""
        walk.done = True
        if self._inodes.find(walk.inode) is None:
            return
        with self._index.change():
            if walk.complete:
                if self._index.get(Table.PENDING, number_key(walk.inode)) == walk.request:
                    self._index.delete(Table.PENDING, number_key(walk.inode))
                self._note_layout(walk)
                self._release(walk.inode)
            else:
                # Whatever happens, a complete pass is owed.
                self._index.put(Table.PENDING, number_key(walk.inode), request_value())

    def trim(self, inode: InodeNumber) -> bool:
        """Remove a slice of the extents behind a truncation; say whether that is all of them."""
        staged = self._staging.find(inode)
        if staged is None or staged.map_visible_to is None:
            return True
        with self._index.change():
            self._admit(staged)
            done = self._maps.trim(inode, staged.map_visible_to, TRIM_SLICE)
            self._conceal(inode, None if done else staged.map_visible_to)
            self._drop_superseded(staged, staged.superseded)
        _admitted(staged)
        if done:
            staged.map_visible_to = None
        return done

    def _admit(self, staged: StagedFile) -> None:
        # Before the map may lose or gain bytes for good, the inode record has to admit a
        # truncation that no flush has made durable yet.
        node = self._inodes.get(staged.inode)
        if staged.size_floor < node.size:
            self._inodes.put(dataclasses.replace(node, size=staged.size_floor))

    def _conceal(self, inode: InodeNumber, visible: int | None) -> None:
        # Says from where on the map is not to be seen: behind a truncation, and behind the size
        # that a crash would leave, should the file then be made longer.
        size = self._inodes.get(inode).size
        behind = next(self._maps.overlapping(inode, size, KEY_MAX), None)
        edges = (visible, None if behind is None else size)
        self._staging.record_visible(inode, min((e for e in edges if e is not None), default=None))

    def _apply(self, step: Step, staged: StagedFile | None, stop: int) -> None:
        # Puts what is not stale into the map, up to the `stop`-th extent.
        walk = step.walk
        missing: list[Extent | Piece] = [*step.unfinished]
        for extent in step.extents[step.applied : stop]:
            if self._is_stale(walk, staged, extent):
                missing.append(extent)
            else:
                self._maps.replace(walk.inode, extent.start, extent.stop, [extent])
        for piece in missing:
            # All windows of it: none may be dropped without its part of the piece.
            walk.skipped.update(windows_of(piece.start, piece.stop))

    def _is_stale(self, walk: Pass, staged: StagedFile | None, extent: Extent) -> bool:
        # Whether the file is not what it was when the pass first looked; or gc removed a dead chunk
        # that was about to be revived. The next pass puts the piece once more.
        if (
            staged is not None
            and staged.map_visible_to is not None
            and extent.stop > staged.map_visible_to
        ):
            return True
        changed = any(
            (number in walk.versions and stamp_of(staged, number) != walk.versions[number])
            or is_written(staged, number)
            for number in windows_of(extent.start, extent.stop)
        )
        return changed or self._chunks.find(extent.chunk) is None

    def _replaced(self, step: Step, staged: StagedFile) -> list[Window]:
        # The windows of a region whose every byte is in the map now.
        walk = step.walk
        return [
            window
            for number, window in staged.windows.items()
            if step.start <= window.start < step.stop
            and number not in walk.skipped
            and window.stamp == walk.versions.get(number)
            and not window.writing
        ]

    def _advance(self, staged: StagedFile, replaced: list[Window]) -> None:
        # What was ingested is durable with the next commit, so the size may say so, up to where
        # the first bytes are that only lie in a window.
        node = self._inodes.get(staged.inode)
        numbers = staged.windows.keys() - {window.number for window in replaced}
        waiting = (staged.windows[number].ranges.within(node.size, KEY_MAX) for number in numbers)
        size = min([staged.size, *(low for ranges in waiting for low, _ in islice(ranges, 1))])
        if node.size < size:
            self._inodes.put(dataclasses.replace(node, size=size))

    def _release(self, inode: InodeNumber) -> None:
        staged = self._staging.find(inode)
        if staged is None:
            return
        node = self._inodes.get(inode)
        empty = [each for each in staged.windows.values() if each.idle]
        self._staging.drop(staged, empty)
        staged.generation += 1
        if staged.windows or staged.map_visible_to is not None:
            return
        self._drop_superseded(staged, staged.superseded)
        self._inodes.put(
            dataclasses.replace(
                node, size=staged.size, mtime_ns=staged.mtime_ns, ctime_ns=_ctime(node, staged)
            )
        )
        self._conceal(inode, None)
        self._staging.release(inode)

    def _drop_superseded(self, staged: StagedFile, windows: Iterable[Window]) -> None:
        gone = list(windows)
        generations = {each.generation for each in gone}
        self._staging.drop(staged, gone)
        staged.superseded = [
            each for each in staged.superseded if each.generation not in generations
        ]

    def _note_layout(self, walk: Pass) -> None:
        if (layout := walk.layout) is None:
            return
        if layout.spans:
            self._index.put(Table.TO_OPTIMIZE, number_key(walk.inode), request_value())
        node = self._inodes.get(walk.inode)
        if layout.format is not node.format:
            self._inodes.put(dataclasses.replace(node, format=layout.format))
        self._external_data.record(walk.inode, walk.places)
        if walk.look is not None:
            self._copy_hints.record(walk.inode, walk.look, layout.format)


def _admitted(staged: StagedFile) -> None:
    # In memory, once the change of the index is made.
    staged.size_floor = staged.size
    staged.generation += 1


def _ctime(node: Inode, staged: StagedFile) -> int:
    return max(node.ctime_ns, staged.ctime_ns)
