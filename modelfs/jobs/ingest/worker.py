"""Ingest: staged bytes become chunks and extents.

Theory of operation. A *pass* goes once through a file, region by region. It recognises the format,
plans the cut of the whole file, and compares the cut with the file map, region by region. A piece
that has an extent of its own and no staged byte is left alone. The bytes of any other piece are
read, staged ones above mapped ones, and put into a chunk. So the same code ingests a new file, an
edit of one byte, and a data file whose layout became known with its model.

A `Region` is ingested in three parts, so that no request waits for it:

1. Plan: `Applier.next_region` (owner's thread) copies the staged state.
2. Work: `Worker.work` (any thread) reads, hashes, compares, and appends to packs, and changes
   nothing else. The regions of several files share a `ChunkWriter` and one flush of the packs.
3. Apply: `Applier.apply` (owner's thread) puts the extents into the map and drops the windows.

The file may be written, truncated or removed in between. Every window has a stamp, which each write
changes. A piece is not applied if a window under it has another stamp than at the start of the
pass. A window is dropped only if its stamp is still the same and all its pieces were applied. Other
windows stay staged, above the map, for the next pass. So ingest needs no lock on files, and a crash
leaves either the windows or the map.

Example. A safetensors file of 130 MiB was copied in: windows 0, 1 and 2, a header of 600 bytes, and
two tensors of 65 MiB. The pass has one region of windows 0 and 1, and one of window 2. The header
is a skeleton chunk. 128 of the 130 pieces of 1 MiB begin in the first region; the store has the 65
of one tensor already. After the region's extents are in the map, windows 0 and 1 are dropped.
During the work on the second region, a program rewrites 4 KiB in window 2: the window's stamp
changes, so its pieces are not applied, and the next pass ingests them.
"""

import logging
from collections.abc import Sequence

from modelfs.errors import BytesMoved, CorruptData
from modelfs.formats.layout import PLAIN, Format, ReadAt
from modelfs.formats.sniff import recognise
from modelfs.jobs.ingest.chunker import Cutter, Piece, Role, skeletons
from modelfs.jobs.ingest.copies import CopyHints, copy_key
from modelfs.jobs.ingest.external_data import ExternalData
from modelfs.jobs.ingest.passes import Pass, Region, data_around
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.disk.reserve import as_chunks
from modelfs.store.files.content import Contents
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.records import Extent
from modelfs.store.store import Store

log = logging.getLogger(__name__)


class FrozenFile:
    """Reads a file in a copied staged state. Any thread."""

    def __init__(self, contents: Contents, staged: StagedFile) -> None:
        self._contents = contents
        self._staged = staged

    def read_at(self, offset: int, size: int) -> bytes:
        return self._contents.gather(self._contents.plan_staged(self._staged, offset, size))


class Worker:
    """The slow part of ingest: reads, hashes, compares, appends. Any thread."""

    def __init__(self, store: Store) -> None:
        self._contents = store.contents
        self._maps = store.maps
        self._chunks = store.chunks
        self._space = store.space
        self._segment_size = store.packs.segment_size
        self._staging = store.staging
        self._chunk_size = store.superblock.chunk_size
        self._seed = store.superblock.hash_seed
        self._external_data = ExternalData(store)
        self._copy_hints = CopyHints(store)
        self._tensors = TensorTable(store.index)

    def work(
        self, regions: Sequence[Region], writer: ChunkWriter
    ) -> tuple[list[Region], WriteResult]:
        """Put the pieces of some regions into chunks, durably.

        Returns:
            The regions that were done, and the writer's result. A region is not done if the format
            cannot be recognised before the file is complete, or if the file was cut meanwhile.

        Raises:
            OSError: the backing disk is full or failed.
        """
        done = [region for region in regions if self.ingest_region(region, writer)]
        return done, writer.finish()

    def ingest_region(self, region: Region, writer: ChunkWriter) -> bool:
        """Put the pieces of a region into chunks; False if it was not done."""
        file_pass = region.file_pass
        read_at = FrozenFile(self._contents, region.staged).read_at
        try:
            if file_pass.cutter is None and not self._plan(file_pass, region.staged, read_at):
                return False
            assert file_pass.cutter is not None
            pieces = self._changed_pieces(region, file_pass.cutter)
            for piece in pieces:
                if piece.role is not Role.GLUE:
                    self._put(region, [piece], read_at, writer)
            glue = [piece for piece in pieces if piece.role is Role.GLUE]
            for group in skeletons(glue, self._chunk_size):
                self._put(region, group, read_at, writer)
        except (OSError, BytesMoved) as exc:
            if not self._was_changed(file_pass, exc):
                raise
            return False
        except CorruptData as exc:
            # Staged bytes above a damaged chunk stay staged, so nothing is lost.
            log.error("file %d cannot be ingested: %s", file_pass.inode, exc)
            staged = region.staged.within(region.start, region.stop)
            region.unfinished.extend(Piece(low, high, Role.PLAIN) for _, low, high in staged)
        return True

    def plan_empty(self, file_pass: Pass, staged: StagedFile) -> None:
        """Give a pass over a file without any data its layout. Any thread."""
        # A damaged file keeps its layout; one that is cut meanwhile gets another pass.
        try:
            self._plan(file_pass, staged, FrozenFile(self._contents, staged).read_at)
        except CorruptData as exc:
            log.debug("file %d keeps its layout: %s", file_pass.inode, exc)
        except (OSError, BytesMoved) as exc:
            if not self._was_changed(file_pass, exc):
                raise

    def _was_changed(self, file_pass: Pass, failure: OSError | BytesMoved) -> bool:
        """Whether a read failed because the file, or a model that names it, was changed meanwhile.

        Its staging file was then deleted or cut, or its bytes are in chunks by now.
        """
        is_gone = isinstance(failure, FileNotFoundError | BytesMoved)
        return is_gone or file_pass.cuts != self._staging.wholes.cuts

    def _plan(self, file_pass: Pass, staged: StagedFile, read_at: ReadAt) -> bool:
        """Recognise the format and plan the cut; False if that needs the complete file."""
        layout = recognise(read_at, staged.size, partial=not file_pass.complete)
        if layout is None and not file_pass.urgent:
            return False
        if layout is None:
            # Any cut is correct. The complete pass cuts the file again.
            layout = PLAIN
        if layout.format is Format.PLAIN and file_pass.models:
            models = {
                model: (FrozenFile(self._contents, state).read_at, state.size)
                for model, state in file_pass.models.items()
            }
            layout = self._external_data.placed_layout(file_pass.inode, staged.size, models)
        if layout.format in (Format.PLAIN, Format.ONNX_DATA):
            file_pass.copy_key = copy_key(read_at, staged.size, self._seed)
        if layout.format is Format.PLAIN and file_pass.copy_key is not None:
            layout = self._copy_hints.layout_under(file_pass.copy_key) or layout
        if layout.external:
            file_pass.places = self._external_data.places_named(file_pass.inode, layout)
        file_pass.rows = (
            self._tensors.changes(file_pass.inode, layout) if file_pass.complete else []
        )
        file_pass.layout = layout
        file_pass.cutter = Cutter(layout.spans, staged.size, self._chunk_size)
        return True

    def _changed_pieces(self, region: Region, cutter: Cutter) -> list[Piece]:
        """Return the region's pieces that have staged bytes, or no extent of their own."""
        changed: list[Piece] = []
        for piece in cutter.pieces(data_around(region, self._maps, self._chunk_size)):
            if not region.owns(piece):
                continue
            is_staged = next(region.staged.within(piece.start, piece.stop), None) is not None
            extent = self._maps.exact(region.staged.inode, piece.start, piece.stop)
            if not is_staged and (extent is not None or self._keeps(region, piece)):
                continue
            if not region.file_pass.takes_all and piece.stop > region.stop:
                region.unfinished.append(piece)  # its end may not be written yet
            else:
                changed.append(piece)
                if not is_staged:
                    region.recut.add(piece)
        return changed

    def _put(
        self, region: Region, group: list[Piece], read_at: ReadAt, writer: ChunkWriter
    ) -> None:
        """Put the bytes of some pieces, one after the other, into one chunk.

        Pieces that are only cut again stay as they are if that would take room that staged bytes
        need.
        """
        try:
            parts = [read_at(piece.start, piece.size) for piece in group]
        except CorruptData as exc:
            log.error("file %d cannot be ingested: %s", region.file_pass.inode, exc)
            region.unfinished.extend(group)
            return
        content = b"".join(parts) if len(parts) > 1 else parts[0]
        if region.recut.issuperset(group) and not self._may_add(content, writer):
            region.file_pass.is_cut = False
            return
        # The optimizer finds smaller forms of tensors than a general compressor, and later.
        chunk = writer.put(content, compress=group[0].role is not Role.TENSOR)
        skip = 0
        for piece, part in zip(group, parts, strict=True):
            region.extents.append(Extent(piece.start, chunk, skip, len(part)))
            skip += len(part)

    def _may_add(self, content: bytes, writer: ChunkWriter) -> bool:
        """Whether content is stored, or there is room beyond that for chunks of staged bytes."""
        # A segment of the writer may still be in memory.
        needed = as_chunks(len(content) + self._segment_size) + as_chunks(self._staging.bytes)
        return self._space.working_bytes >= needed or writer.find(content) is not None

    def _keeps(self, region: Region, piece: Piece) -> bool:
        """Whether a piece that is mapped, but not as the cut has it, stays in its present chunks.

        While room is short, it does. So it does in a file of which no tensor is known, such as a
        model that was cut, if others use these chunks, or it uses most of them itself: to cut it
        again would store its bytes once more.
        """
        if region.file_pass.urgent:
            return True
        layout = region.file_pass.layout
        if layout is None or layout.spans:
            return False
        extents = self._maps.overlapping(region.staged.inode, piece.start, piece.stop)
        return all(map(self._needs_chunk, extents))

    def _needs_chunk(self, extent: Extent) -> bool:
        """Whether a chunk stays for others, or most of it is in an extent."""
        record = self._chunks.find(extent.chunk)
        return record is not None and (record.refs > 1 or 2 * extent.length >= record.size)
