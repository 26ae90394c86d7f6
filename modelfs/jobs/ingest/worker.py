"""Ingest: staged content becomes chunks.

Theory of operation. A *pass* goes once through a file, region by region. It recognises the format,
plans the cut of the whole file, and for each region compares the cut with the map: a piece that is
mapped just so and has no staged byte is left alone, any other is read (staged bytes over mapped
ones) and put into chunks. The same code thus ingests a new file, an edit of one byte, and a data
file whose layout became known when its model arrived.

A region is one `Step`, in three parts, so that no request waits for it:

1. `Intake.begin_step` (owner's thread) takes a copy of the staged state.
2. `Ingest.run` (any thread) reads, hashes, compares, appends to packs. It changes nothing else.
   Several steps may share a `ChunkWriter` and one flush of the packs.
3. `Intake.finish_step` (owner's thread) puts the extents and drops the windows.

The file may be written, truncated or removed meanwhile. Every window carries a stamp: pieces that
overlap a window which changed since the pass first looked are not applied, and a window is dropped
only if it never changed and all its pieces were applied. What is left stays staged, above the map,
for the next pass. Nothing has to be locked, and a crash leaves either the windows or the map.
"""

import contextlib
import logging
from dataclasses import dataclass, field
from typing import Final

from modelfs.errors import CorruptData
from modelfs.formats.layout import Format, Layout, ReadAt
from modelfs.formats.sniff import recognise
from modelfs.jobs.ingest.chunker import Cutter, Piece, Role, skeletons
from modelfs.jobs.ingest.copies import CopyHints
from modelfs.jobs.ingest.external_data import ExternalData, Place
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.files.content import Contents
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.staging import WINDOW, StagedFile
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import InodeNumber

log = logging.getLogger(__name__)

# One step reads at most about this much staged content, and looks at this many extents.
STEP_BYTES: Final = 2 * WINDOW
STEP_EXTENTS: Final = 4096


@dataclass(slots=True)
class Pass:
    """One walk through a file. Its fields change only between steps."""

    inode: InodeNumber
    complete: bool  # the file is not being written: its layout is final
    models: dict[InodeNumber, StagedFile] = field(default_factory=dict)  # that name it, copies
    request: bytes | None = None  # what was pending for the file when the pass began
    layout: Layout | None = None
    cutter: Cutter | None = None
    places: set[Place] = field(default_factory=set)
    look: bytes | None = None  # what it has in common with its copies
    rows: list[tuple[bytes, bytes | None]] = field(default_factory=list)  # of tensors, to change
    position: int = 0
    # The stamp of each window when the pass began.
    versions: dict[int, tuple[int, int]] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)  # windows with pieces that were not applied
    done: bool = False


@dataclass(slots=True)
class Step:
    """One region of a pass: what was seen, and what is to be done about it."""

    walk: Pass
    staged: StagedFile  # a copy
    start: int
    stop: int
    extents: list[Extent] = field(default_factory=list)
    unfinished: list[Piece] = field(default_factory=list)  # reach into what is still written
    applied: int = 0  # how many of the extents are in the map

    def within_step(self, piece: Piece) -> bool:
        begins = self.start <= piece.start < self.stop
        # A partial pass leaves windows out: what reaches in from one of them is nobody else's.
        return begins or (not self.walk.complete and piece.start < self.start < piece.stop)


class FrozenFile:
    """Reads a frozen state of a file from any thread, and any other file as committed."""

    def __init__(self, contents: Contents, staged: StagedFile) -> None:
        self._contents = contents
        self._staged = staged

    def read_at(self, offset: int, size: int) -> bytes:
        return self._contents.gather(self._contents.plan_staged(self._staged, offset, size))


class Ingest:
    """The working half of ingest, for any thread."""

    def __init__(
        self,
        contents: Contents,
        maps: FileMaps,
        external_data: ExternalData,
        copy_hints: CopyHints,
        tensors: TensorTable,
        chunk_size: int,
    ) -> None:
        self._contents = contents
        self._maps = maps
        self._external_data = external_data
        self._copy_hints = copy_hints
        self._tensors = tensors
        self._chunk_size = chunk_size

    def run(self, step: Step, writer: ChunkWriter) -> bool:
        """Put a step's pieces into chunks. Any thread.

        Returns:
            False if nothing was done: the format cannot be told before the file is complete, or
            the file was cut since the step began, and what was staged deleted.

        Raises:
            OSError: the backing disk is full or failed.
        """
        try:
            return self._run(step, writer)
        except FileNotFoundError:
            return False
        except CorruptData as exc:
            # What is staged above damage stays staged: nothing is lost by waiting.
            log.error("file %d cannot be ingested: %s", step.walk.inode, exc)
            staged = step.staged.within(step.start, step.stop)
            step.unfinished.extend(Piece(low, high, Role.PLAIN) for _, low, high in staged)
            return True

    def _run(self, step: Step, writer: ChunkWriter) -> bool:
        walk = step.walk
        reader = FrozenFile(self._contents, step.staged)
        if walk.cutter is None and not self._plan(walk, step.staged, reader.read_at):
            return False
        assert walk.cutter is not None
        pieces = self._wanted(step, walk.cutter)
        glue = [piece for piece in pieces if piece.role is Role.GLUE]
        for piece in pieces:
            if piece.role is not Role.GLUE:
                _put(step, [piece], reader.read_at, writer)
        for group in skeletons(glue, self._chunk_size):
            _put(step, group, reader.read_at, writer)
        return True

    def plan_empty(self, walk: Pass, staged: StagedFile) -> None:
        """Give a pass over a file without any data its layout. Any thread."""
        # A damaged file keeps the layout it had; one that is cut meanwhile is looked at again.
        with contextlib.suppress(CorruptData, FileNotFoundError):
            self._plan(walk, staged, FrozenFile(self._contents, staged).read_at)

    def _plan(self, walk: Pass, staged: StagedFile, read_at: ReadAt) -> bool:
        layout = recognise(read_at, staged.size, partial=not walk.complete)
        if layout is None:
            return False
        if layout.format is Format.PLAIN and walk.models:
            models = {
                model: (FrozenFile(self._contents, state).read_at, state.size)
                for model, state in walk.models.items()
            }
            layout = self._external_data.layout_of(walk.inode, staged.size, models)
        if layout.format in (Format.PLAIN, Format.ONNX_DATA):
            walk.look = self._copy_hints.look(read_at, staged.size)
        if layout.format is Format.PLAIN and walk.look is not None:
            layout = self._copy_hints.layout_of(walk.look) or layout
        if layout.external:
            walk.places = self._external_data.named_by(walk.inode, layout)
        walk.rows = self._tensors.changes(walk.inode, layout) if walk.complete else []
        walk.layout = layout
        walk.cutter = Cutter(layout.spans, staged.size, self._chunk_size)
        return True

    def _wanted(self, step: Step, cutter: Cutter) -> list[Piece]:
        """Return the pieces of a region that the map does not have just so."""
        data = self._data(step)
        found: list[Piece] = []
        for piece in cutter.pieces(data):
            if not step.within_step(piece) or self._is_mapped(step.staged, piece):
                continue
            if not step.walk.complete and piece.stop > step.stop:
                step.unfinished.append(piece)  # its tail may still be on its way
            else:
                found.append(piece)
        return found

    def _data(self, step: Step) -> RangeSet:
        # A piece may begin before the region or end behind it: look a piece further both ways, so
        # that none appears clipped.
        start = max(0, step.start - self._chunk_size)
        stop = min(step.stop + self._chunk_size, step.staged.size)
        data = RangeSet((low, high) for _, low, high in step.staged.within(start, stop))
        seen = stop if step.staged.map_visible_to is None else min(stop, step.staged.map_visible_to)
        for extent in self._maps.within(step.walk.inode, start, seen):
            data.add(extent.start, extent.stop)
        return data

    def _is_mapped(self, staged: StagedFile, piece: Piece) -> bool:
        if next(staged.within(piece.start, piece.stop), None) is not None:
            return False
        return self._maps.exact(staged.inode, piece.start, piece.stop) is not None


def _put(step: Step, group: list[Piece], read_at: ReadAt, writer: ChunkWriter) -> None:
    """Put pieces into one chunk, next to each other."""
    try:
        parts = [read_at(piece.start, piece.stop - piece.start) for piece in group]
    except CorruptData as exc:
        log.error("file %d cannot be ingested: %s", step.walk.inode, exc)
        step.unfinished.extend(group)
        return
    chunk = writer.put(b"".join(parts) if len(parts) > 1 else parts[0], group[0].role)
    skip = 0
    for piece, part in zip(group, parts, strict=True):
        step.extents.append(Extent(piece.start, chunk, skip, len(part)))
        skip += len(part)


def next_region(staged: StagedFile, maps: FileMaps, start: int) -> tuple[int, int] | None:
    """Return the bounds of the next step from `start` on, None at the end of the data.

    They lie on window boundaries, so that skeletons do not depend on how a pass was divided.
    """
    windows = sorted(number for number in staged.windows if (number + 1) * WINDOW > start)
    rows, more = maps.starts(staged.inode, start, STEP_EXTENTS)
    if staged.map_visible_to is not None:
        rows = [each for each in rows if each < staged.map_visible_to]
    first = min([*(number * WINDOW for number in windows[:1]), *rows[:1]], default=None)
    if first is None:
        return None
    stop = _staged_stop(staged, windows)
    if more and rows:
        stop = min(stop, rows[-1] // WINDOW * WINDOW)
    start = max(start, first // WINDOW * WINDOW)
    return start, max(stop, start // WINDOW * WINDOW + WINDOW)


def next_full_region(staged: StagedFile, start: int) -> tuple[int, int] | None:
    """Return the next run of windows that are written from end to end, None if there is none."""
    full = [number for number in sorted(staged.windows) if staged.windows[number].full]
    full = [number for number in full if number * WINDOW >= start]
    if not full:
        return None
    last = full[0]
    while last + 1 in full and (last + 1 - full[0]) * WINDOW < STEP_BYTES:
        last += 1
    return full[0] * WINDOW, (last + 1) * WINDOW


def _staged_stop(staged: StagedFile, windows: list[int]) -> int:
    total = 0
    for number in windows:
        total += staged.windows[number].ranges.size
        if total > STEP_BYTES:
            return number * WINDOW
    return (staged.size + WINDOW - 1) // WINDOW * WINDOW
