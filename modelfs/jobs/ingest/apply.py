"""Applying ingest: the changes of the index and of the staged state. Owner's thread, and quick.

The slow part is `Worker.work`, on any thread, between `next_region` and `apply`. Each call changes
this, and a crash after its commit leaves that::

    call          changes                                      a crash leaves
    request       PENDING                                      the windows
    begin_pass    nothing                                      the windows
    next_region   nothing                                      the windows
    apply         a slice of extents, over and over            windows that lie above the map
    (its end)     size, rows of the region's windows           the map
    apply_rows    a slice of tensor rows                       both layouts' rows
    record_places a slice of the data files that it names      some of them, and the request
    end_pass      format, hints, PENDING; releases the state   a file that is in chunks

From the first change of a pass to its last, PENDING has a request for the file: a crash is followed
by another pass, and readers do not use the tensor rows meanwhile.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from modelfs.jobs.ingest.chunker import Piece
from modelfs.jobs.ingest.copies import CopyHints
from modelfs.jobs.ingest.external_data import ExternalData
from modelfs.jobs.ingest.passes import Pass, Region, next_bounds, next_full_bounds
from modelfs.jobs.steps import slices
from modelfs.store.files.staged_file import StagedFile, with_staged_state
from modelfs.store.files.tensors import TensorTable
from modelfs.store.files.window import Window, windows_of
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import KEY_MAX, InodeNumber, Table, number_key, request_value
from modelfs.store.store import Store

# Rows of one change of the index, so that no request waits long: extents, and tensor rows, which
# cost less.
EXTENTS_SLICE: Final = 100
ROWS_SLICE: Final = 1000
# Data files that a model names; each is looked up.
PLACES_SLICE: Final = 200


class Applier:
    """Plans the regions of passes, and applies their results."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._external_data = ExternalData(store)
        self._copy_hints = CopyHints(store)
        self._tensors = TensorTable(store.index)

    # -- planning

    def request(self, inode: InodeNumber) -> None:
        """Record a request for a pass, if the file has staged content. Before its first change."""
        index, key = self._store.index, number_key(inode)
        if self._store.staging.find(inode) is not None and index.get(Table.PENDING, key) is None:
            with index.change():
                index.put(Table.PENDING, key, request_value())

    def begin_pass(self, inode: InodeNumber, *, complete: bool, urgent: bool = False) -> Pass:
        """Begin a pass.

        Args:
            inode: of the file.
            complete: no program is writing the file, so its layout is final.
            urgent: room is short, so take all staged bytes.
        """
        contents, staging = self._store.contents, self._store.staging
        cuts = staging.wholes.cuts
        models = self._external_data.models_naming(inode) - {inode}
        copies = {model: contents.snapshot(model) for model in models}
        staged = staging.find(inode)
        windows = {} if staged is None else staged.windows
        stamps = {number: window.stamp for number, window in windows.items()}
        request = self._store.index.get(Table.PENDING, number_key(inode))
        return Pass(inode, complete, urgent, copies, request, stamps=stamps, cuts=cuts)

    def next_region(self, file_pass: Pass) -> Region | None:
        """Return the next region; None at the end, and if the file is gone."""
        if not self._exists(file_pass):
            return None
        staged = self._store.contents.snapshot(file_pass.inode)
        if file_pass.takes_all:
            bounds = next_bounds(staged, self._store.maps, file_pass.position)
        else:
            bounds = next_full_bounds(staged, file_pass.position)
        return None if bounds is None else Region(file_pass, staged, *bounds)

    def _exists(self, file_pass: Pass) -> bool:
        return self._store.inodes.find(file_pass.inode) is not None

    # -- applying a region

    def apply(self, region: Region) -> Iterator[None]:
        """Put a region's extents into the map, a slice at a time, then drop the windows below them.

        Yields between slices. Until the last one the windows lie above the map, so a crash, or a
        write, between two slices finds the bytes in either. Call it after `Store.publish`.
        """
        parts = list(slices(region.extents, EXTENTS_SLICE)) or [()]
        for number, extents in enumerate(parts, 1):
            if not self._exists(region.file_pass):
                region.file_pass.done = True
                return
            staged = self._store.staging.find(region.file_pass.inode)
            if staged is None:
                with self._store.index.change():
                    self._map(region, None, extents)
            else:
                self._apply_slice(region, staged, extents, is_last=number == len(parts))
            if number < len(parts):
                yield
        region.file_pass.position = region.stop

    def _apply_slice(
        self, region: Region, staged: StagedFile, extents: Sequence[Extent], *, is_last: bool
    ) -> None:
        """Put extents into the map of a file with staged content.

        With the last slice of a region, drop the windows whose every byte is in the map. Not
        before: as long as a superseded window has a row, the inode record must not have a size that
        reaches into it.
        """
        flusher, staging = self._store.flusher, self._store.staging
        with self._store.index.change():
            flusher.record_truncation(staged)
            self._map(region, staged, extents)
            mapped = region.mapped_windows(staged) if is_last else []
            if is_last:
                self._record_growth(staged, mapped)
            flusher.hide_map(staged.inode, staged.map_visible_to)
            if is_last:
                # Last: windows dropped from memory do not come back if the change fails.
                staging.drop_superseded(staged, staged.superseded)
                staging.drop(staged, mapped)
        staged.truncation_recorded()

    def _map(self, region: Region, staged: StagedFile | None, extents: Sequence[Extent]) -> None:
        """Put extents into the map, but not stale ones, whose windows are skipped."""
        file_pass = region.file_pass
        missing: list[Extent | Piece] = [*region.unfinished]
        is_edited = staged is not None and staged.edits != region.staged.edits
        for extent in extents:
            # The map may have newer content: see `map_edits`.
            # gc may have removed a dead chunk that this extent was about to revive. The next pass
            # puts the bytes of a stale extent into a chunk again.
            if (
                is_edited
                or file_pass.changed_under(extent, staged)
                or self._store.chunks.find(extent.chunk) is None
            ):
                missing.append(extent)
            else:
                self._store.maps.replace(file_pass.inode, extent.start, extent.stop, [extent])
        for piece in missing:
            # All windows of it: none may be dropped while its part of the piece is not in the map.
            file_pass.skipped.update(windows_of(piece.start, piece.stop))

    def _record_growth(self, staged: StagedFile, mapped: Sequence[Window]) -> None:
        """Record a larger size, as windows are dropped whose every byte is in the map.

        Mapped bytes are durable with the next commit, so the recorded size may grow up to the first
        byte that is in a window only.
        """
        node = self._store.inodes.get(staged.inode)
        numbers = staged.windows.keys() - {window.number for window in mapped}
        waiting = (staged.windows[number].ranges.within(node.size, KEY_MAX) for number in numbers)
        size = min([staged.size, *(low for ranges in waiting for low, _ in islice(ranges, 1))])
        # The row of a window that was cut may still have the bytes that were cut off.
        stay = (staged.windows[number] for number in numbers)
        rows_are_old = any(window.dirty and window.recorded for window in stay)
        if node.size < size and not rows_are_old:
            self._store.inodes.put(dataclasses.replace(node, size=size))

    # -- ending a pass

    def apply_rows(self, file_pass: Pass) -> Iterator[None]:
        """Change a file's tensor rows; yields between slices."""
        for number, changes in enumerate(slices(file_pass.rows, ROWS_SLICE)):
            if number:
                yield
            if not self._exists(file_pass):
                return
            with self._store.index.change():
                self._tensors.change(file_pass.inode, changes)

    def record_places(self, file_pass: Pass) -> Iterator[None]:
        """Record the data files that a model names; yields between slices."""
        if not (file_pass.complete and file_pass.is_cut):
            return
        for number, places in enumerate(slices([*file_pass.places], PLACES_SLICE)):
            if number:
                yield
            if not self._exists(file_pass):
                return
            with self._store.index.change():
                self._external_data.record(file_pass.inode, places)

    def end_pass(self, file_pass: Pass) -> None:
        """Record the format, and release the staged state if no window is left."""
        file_pass.done = True
        if not self._exists(file_pass):
            return
        index, key = self._store.index, number_key(file_pass.inode)
        with index.change():
            if not file_pass.complete:
                index.put(Table.PENDING, key, request_value())  # a request for a complete pass
                return
            # A pass that found no room to cut the file is repeated until there is some, so it
            # changes nothing here that the next one would change again.
            if file_pass.is_cut:
                self._record_layout(file_pass)
            self._release(file_pass)

    def _record_layout(self, file_pass: Pass) -> None:
        index, key = self._store.index, number_key(file_pass.inode)
        if index.get(Table.PENDING, key) == file_pass.request:
            index.delete(Table.PENDING, key)
        if (layout := file_pass.layout) is not None:
            if layout.spans:
                index.put(Table.TO_OPTIMIZE, key, request_value())
            node = self._store.inodes.get(file_pass.inode)
            if layout.format is not node.format:
                self._store.inodes.put(dataclasses.replace(node, format=layout.format))
            if file_pass.copy_key is not None:
                self._copy_hints.record(file_pass.inode, file_pass.copy_key, layout.format)

    def _release(self, file_pass: Pass) -> None:
        """Drop idle windows, or those of a whole file, and the staged state if none is left."""
        staging, inode = self._store.staging, file_pass.inode
        staged = staging.find(inode)
        if staged is None:
            return
        node = self._store.inodes.get(inode)
        if staged.whole is None:
            staging.drop(staged, [window for window in staged.windows.values() if window.unused])
        elif file_pass.has_taken(staged):
            staging.drop(staged, list(staged.windows.values()))
            staging.wholes.end(staged)
        staged.generation += 1
        if staged.windows or staged.map_visible_to is not None:
            return
        staging.drop_superseded(staged, staged.superseded)
        self._store.inodes.put(with_staged_state(node, staged))
        staged.map_visible_to = self._store.flusher.hide_map(inode, None)
        if staged.map_visible_to is None:
            staging.release(inode)
        else:  # extents behind the end: the next pass removes them
            self._store.index.put(Table.PENDING, number_key(inode), request_value())
