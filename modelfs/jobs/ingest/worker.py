"""Ingest: staged content becomes chunks.

Theory of operation. A *pass* goes once through a file, region by region. It recognises the format,
plans the cut of the whole file, and for each region compares the cut with the map: a piece that is
mapped just so and has no staged byte is left alone, any other is read (staged bytes over mapped
ones) and put into chunks. The same code thus ingests a new file, an edit of one byte, and a data
file whose layout became known when its model arrived.

A region is one `Step`, in three parts, so that no request waits for it:

1. Plan: `Applier.next_step` (owner's thread) takes a copy of the staged state.
2. Work: `Worker.work` (any thread) reads, hashes, compares, appends to packs. It changes nothing
   else. The steps of several files share a `ChunkWriter` and one flush of the packs.
3. Apply: `Applier.apply` (owner's thread) puts the extents and drops the windows.

The file may be written, truncated or removed meanwhile. Every window carries a stamp: pieces that
overlap a window which changed since the pass first looked are not applied, and a window is dropped
only if it never changed and all its pieces were applied. What is left stays staged, above the map,
for the next pass. Nothing has to be locked, and a crash leaves either the windows or the map.

Example. A safetensors file of 130 MiB was copied in: windows 0, 1 and 2, three tensors of 43 MiB.
The pass has one step for windows 0 and 1, and one for window 2. The header is a skeleton chunk; the
first step's tensors give 86 pieces of 1 MiB, of which the store has 43 already. After its extents
are in the map, windows 0 and 1 are dropped. A program rewrites 4 KiB in window 2 while step two is
at work: its stamp moved, so that window's pieces are not applied, and the next pass takes them.
"""

import contextlib
import logging
from collections.abc import Sequence

from modelfs.errors import CorruptData
from modelfs.formats.layout import Format, ReadAt
from modelfs.formats.sniff import recognise
from modelfs.jobs.ingest.chunker import Cutter, Piece, Role, skeletons
from modelfs.jobs.ingest.copies import CopyHints, copy_key
from modelfs.jobs.ingest.external_data import ExternalData
from modelfs.jobs.ingest.passes import Pass, Step
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.files.content import Contents
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent
from modelfs.store.store import Store

log = logging.getLogger(__name__)


class FrozenFile:
    """Reads a frozen state of a file from any thread, and any other file as committed."""

    def __init__(self, contents: Contents, staged: StagedFile) -> None:
        self._contents = contents
        self._staged = staged

    def read_at(self, offset: int, size: int) -> bytes:
        return self._contents.gather(self._contents.plan_staged(self._staged, offset, size))


class Worker:
    """The working half of ingest: reads, hashes, compares, appends. Any thread."""

    def __init__(self, store: Store) -> None:
        self._contents = store.contents
        self._maps = store.maps
        self._chunk_size = store.superblock.chunk_size
        self._seed = store.superblock.hash_seed
        self._external_data = ExternalData(store)
        self._copy_hints = CopyHints(store)
        self._tensors = TensorTable(store.index)

    def work(self, steps: Sequence[Step], writer: ChunkWriter) -> tuple[list[Step], WriteResult]:
        """Put the pieces of some steps into chunks, durably.

        Returns:
            The steps that were done, and what the writer stored. A step is not done if the format
            cannot be recognised before the file is complete, or if the file was cut meanwhile.

        Raises:
            OSError: the backing disk is full or failed.
        """
        done = [step for step in steps if self.run(step, writer)]
        return done, writer.finish()

    def run(self, step: Step, writer: ChunkWriter) -> bool:
        """Put one step's pieces into chunks; False if it was not done."""
        try:
            return self._run(step, writer)
        except FileNotFoundError:
            return False
        except CorruptData as exc:
            # What is staged above damage stays staged: nothing is lost by waiting.
            log.error("file %d cannot be ingested: %s", step.file_pass.inode, exc)
            staged = step.staged.within(step.start, step.stop)
            step.unfinished.extend(Piece(low, high, Role.PLAIN) for _, low, high in staged)
            return True

    def _run(self, step: Step, writer: ChunkWriter) -> bool:
        file_pass = step.file_pass
        reader = FrozenFile(self._contents, step.staged)
        if file_pass.cutter is None and not self._plan(file_pass, step.staged, reader.read_at):
            return False
        assert file_pass.cutter is not None
        pieces = self._wanted(step, file_pass.cutter)
        glue = [piece for piece in pieces if piece.role is Role.GLUE]
        for piece in pieces:
            if piece.role is not Role.GLUE:
                _put(step, [piece], reader.read_at, writer)
        for group in skeletons(glue, self._chunk_size):
            _put(step, group, reader.read_at, writer)
        return True

    def plan_empty(self, file_pass: Pass, staged: StagedFile) -> None:
        """Give a pass over a file without any data its layout. Any thread."""
        # A damaged file keeps the layout it had; one that is cut meanwhile is looked at again.
        with contextlib.suppress(CorruptData, FileNotFoundError):
            self._plan(file_pass, staged, FrozenFile(self._contents, staged).read_at)

    def _plan(self, file_pass: Pass, staged: StagedFile, read_at: ReadAt) -> bool:
        layout = recognise(read_at, staged.size, partial=not file_pass.complete)
        if layout is None:
            return False
        if layout.format is Format.PLAIN and file_pass.models:
            models = {
                model: (FrozenFile(self._contents, state).read_at, state.size)
                for model, state in file_pass.models.items()
            }
            layout = self._external_data.layout_of(file_pass.inode, staged.size, models)
        if layout.format in (Format.PLAIN, Format.ONNX_DATA):
            file_pass.copy_key = copy_key(read_at, staged.size, self._seed)
        if layout.format is Format.PLAIN and file_pass.copy_key is not None:
            layout = self._copy_hints.layout_of(file_pass.copy_key) or layout
        if layout.external:
            file_pass.places = self._external_data.named_by(file_pass.inode, layout)
        file_pass.rows = (
            self._tensors.changes(file_pass.inode, layout) if file_pass.complete else []
        )
        file_pass.layout = layout
        file_pass.cutter = Cutter(layout.spans, staged.size, self._chunk_size)
        return True

    def _wanted(self, step: Step, cutter: Cutter) -> list[Piece]:
        """Return the pieces of a region that the map does not have just so."""
        data = self._data(step)
        found: list[Piece] = []
        for piece in cutter.pieces(data):
            if not step.within_step(piece) or self._is_mapped(step.staged, piece):
                continue
            if not step.file_pass.complete and piece.stop > step.stop:
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
        for extent in self._maps.within(step.file_pass.inode, start, seen):
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
        log.error("file %d cannot be ingested: %s", step.file_pass.inode, exc)
        step.unfinished.extend(group)
        return
    content = b"".join(parts) if len(parts) > 1 else parts[0]
    chunk = writer.put(content, compress=group[0].role is not Role.TENSOR)
    skip = 0
    for piece, part in zip(group, parts, strict=True):
        step.extents.append(Extent(piece.start, chunk, skip, len(part)))
        skip += len(part)
