"""Ingest, as jobs.

Files are ingested in *rounds*: the files of a round share a writer of chunks, and one flush of the
packs for each region of theirs.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from functools import partial
from typing import Final

from modelfs.errors import LostBytes, ModelfsError, StoreFull
from modelfs.jobs.ingest.apply import Applier
from modelfs.jobs.ingest.passes import Pass, Region
from modelfs.jobs.ingest.worker import Worker
from modelfs.jobs.steps import Commit, Job, Pause, Work, appending, pausing
from modelfs.store.disk.reserve import as_chunks
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.index.counters import NEXT_INODE
from modelfs.store.index.tables import KEY_MAX, InodeNumber, Table, number_key
from modelfs.store.store import Store

log = logging.getLogger(__name__)

# Files of one round. Not more, as their plans are in memory: some 700 bytes for a tensor, of which
# 16 MiB may have 100,000.
ROUND_FILES: Final = 256
ROUND_BYTES: Final = 16 << 20
# How often a sync cuts the same file again. Once is usual, for a data file and its model.
RECUTS_MAX: Final = 3

# Requests that are read in one step of the event loop: some 10 ms.
REQUESTS_PAGE: Final = 10_000

Failures = dict[InodeNumber, ModelfsError | OSError]
Round = tuple[Sequence[InodeNumber], int, int]  # the files of a round, files done, all files


def round_of(store: Store, inodes: Sequence[InodeNumber]) -> Sequence[InodeNumber]:
    """Return the first files, as many as make one round."""
    size = 0
    for count, inode in enumerate(inodes[:ROUND_FILES], 1):
        staged = store.staging.find(inode)
        size += 0 if staged is None else staged.staged_bytes
        if size > ROUND_BYTES:
            return inodes[:count]
    return inodes[:ROUND_FILES]


def sync_rounds(store: Store) -> Iterator[Round]:
    """Yield the rounds that ingest all files that are pending now.

    Each round comes with the number of files that are done after it, and with that of all files
    known by then. While many files are listed, empty rounds come in between: pauses.

    Ask for the next round after the last one was ingested: a model may have requested a new cut of
    its data file. A file that is written meanwhile is ingested once only, and a file that is
    created meanwhile is left out, since a program may create files faster than they are ingested.
    """
    new_inodes = store.counters.get(NEXT_INODE)  # and above: they are created meanwhile
    done: set[InodeNumber] = set()
    cuts: Counter[InodeNumber] = Counter()
    requested = yield from _requested_in_pages(store, done)
    pending = sorted({*requested, *(staged.inode for staged in store.staging)})
    while pending:
        while pending:
            inodes = round_of(store, pending)
            pending = pending[len(inodes) :]
            done.update(inodes)
            yield inodes, len(done), len(done) + len(pending)
        requested = yield from _requested_in_pages(store, done)
        pending = [inode for inode in requested if inode < new_inodes and cuts[inode] < RECUTS_MAX]
        cuts.update(pending)


def _requested_in_pages(
    store: Store, done: Collection[InodeNumber]
) -> Generator[Round, None, list[InodeNumber]]:
    """Return the files with a request; yields an empty round after each page of them."""
    requested: list[InodeNumber] = []
    while page := store.inventory.requested(requested[-1] + 1 if requested else 0, REQUESTS_PAGE):
        requested += page
        if len(page) < REQUESTS_PAGE:
            break
        yield (), len(done), len(done) + len(requested)
    return requested


class Ingest:
    """Puts the staged bytes of a store into chunks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._applier = Applier(store)
        self._worker = Worker(store)
        self._undivided: set[InodeNumber] = set()  # staged, without room; each is logged once

    def ingest(
        self,
        inodes: Sequence[InodeNumber],
        *,
        complete: bool = True,
        urgent: bool = False,
        done: Callable[[], None] | None = None,
    ) -> Job[set[InodeNumber]]:
        """Ingest a round of files, each up to the end that it has now.

        A program may append to a file faster than it is ingested: the rest is for the next round.

        Args:
            inodes: the files. A file that is not pending any more is left out.
            complete: no program is writing the files, so their layouts are final.
            urgent: room is short, so take all bytes, also of files that are being written.
            done: called after each file.

        Returns:
            The files that were not ingested to their ends: a partial pass could not recognise the
            format, or the file was cut meanwhile, or programs may still write it unseen. And those
            whose mapped bytes are to be cut again when there is room.

        Raises:
            StoreFull: no room; bytes that are not in chunks are still staged.
            OSError: the disk failed; the same.
        """
        return appending(self._ingest(inodes, complete, urgent, done or (lambda: None)))

    def _ingest(
        self, inodes: Sequence[InodeNumber], complete: bool, urgent: bool, done: Callable[[], None]
    ) -> Job[set[InodeNumber]]:
        passes, unfinished = yield from self._begin_passes(inodes, complete=complete, urgent=urgent)
        while passes:
            regions, ended = yield from self._ingest_next_regions(passes)
            advanced = {file_pass.inode for file_pass in (*ended, *(r.file_pass for r in regions))}
            unfinished |= {file_pass.inode for file_pass in passes} - advanced
            for file_pass in ended:
                yield from self._end_pass(file_pass)
                if complete and not file_pass.is_cut:
                    unfinished.add(file_pass.inode)
                done()
                yield Pause()
            passes = [region.file_pass for region in regions if not region.file_pass.done]
            if passes and self._is_room_short():
                yield Commit()  # gives back the room of bytes that are in chunks
        return unfinished

    def _is_room_short(self) -> bool:
        """Whether there is no room for chunks of all staged bytes."""
        return self._store.space.working_bytes < as_chunks(self._store.staging.bytes)

    def _begin_passes(
        self, inodes: Sequence[InodeNumber], *, complete: bool, urgent: bool
    ) -> Job[tuple[list[Pass], set[InodeNumber]]]:
        """Begin a pass over each file that is pending.

        Returns:
            The passes, and the files over which none may begin yet.
        """
        passes: list[Pass] = []
        later: set[InodeNumber] = set()
        for inode in inodes:
            yield Pause()
            staged = self._store.staging.find(inode)
            if self._store.inodes.find(inode) is None:
                continue
            if staged is None and self._store.index.get(Table.PENDING, number_key(inode)) is None:
                continue  # ingested since the caller listed it
            if staged is not None and not (yield from self._may_begin(staged)):
                later.add(inode)
                continue
            self._applier.request(inode)
            yield from pausing(self._store.flusher.trim(inode))
            if staged is not None and not (yield from self._make_room(staged)):
                later.add(inode)
                continue
            passes.append(self._applier.begin_pass(inode, complete=complete, urgent=urgent))
            if (staged := self._store.staging.find(inode)) is not None:
                passes[-1].end = max(staged.size, 1)
        return passes, later

    def _may_begin(self, staged: StagedFile) -> Job[bool]:
        """Return whether a pass over a file may begin; hide the extents below a whole file."""
        if not self._store.staging.wholes.prove_final(staged):
            return False
        if staged.whole is not None and self._is_mapped(staged.inode):
            # Of an earlier pass, or of before a program wrote the file again. Its bytes first go
            # where a crash finds them.
            yield from self._flush(staged)
            staged.map_visible_to = 0
        return True

    def _make_room(self, staged: StagedFile) -> Job[bool]:
        """Let a pass over a file give its room back region by region, if room is short.

        The bytes of a whole file give their room back together, at the end of the pass. If there is
        no room for all of its chunks until then, the file is divided.

        Returns:
            Whether a pass may begin: there is room, or the file's windows give it back.
        """
        self._store.space.guard.release()
        has_room = self._store.space.working_bytes >= as_chunks(staged.staged_bytes)
        if staged.whole is None or has_room:
            self._undivided.discard(staged.inode)
            return True
        yield from self._flush(staged)
        inode = staged.inode
        current = self._store.staging.find(inode)
        if current is None or current.whole is None:
            return True
        is_mapped = self._is_mapped(inode)
        if not is_mapped and self._store.staging.divide(current):
            self._undivided.discard(inode)
            return True
        if inode not in self._undivided:
            self._undivided &= {staged.inode for staged in self._store.staging}
            self._undivided.add(inode)
            reason = "it still has older chunks" if is_mapped else "programs use or change it"
            log.warning("no room to put file %d into chunks yet: %s", inode, reason)
        return False

    def _is_mapped(self, inode: InodeNumber) -> bool:
        """Whether a file has extents, also below a whole file that hides them."""
        return next(self._store.maps.overlapping(inode, 0, KEY_MAX), None) is not None

    def _flush(self, staged: StagedFile) -> Job[None]:
        for call in self._store.flusher.flush(staged.inode):
            yield Work(call)

    def _end_pass(self, file_pass: Pass) -> Job[None]:
        """Record the tensors and the format of a file whose regions are ingested."""
        inode = file_pass.inode
        if file_pass.layout is None and self._store.inodes.find(inode) is not None:
            frozen = self._store.contents.snapshot(inode)
            yield Work(partial(self._worker.plan_empty, file_pass, frozen))
        yield from pausing(self._applier.apply_rows(file_pass))
        yield from pausing(self._applier.record_places(file_pass))
        self._applier.end_pass(file_pass)

    def ingest_apart(
        self, inodes: Sequence[InodeNumber], *, done: Callable[[], None] | None = None
    ) -> Job[Failures]:
        """Ingest a round of files, or if that fails, one file after the other.

        A file without room for all its tensors as chunks of their own, such as one that was written
        in a full store before its format was known, is ingested without: only its staged bytes
        become chunks. The request for a complete pass stays.

        Returns:
            The errors of the files that failed, or that have lost bytes.
        """
        try:
            yield from self.ingest(inodes, done=done)
        except (ModelfsError, OSError) as exc:
            if len(inodes) == 1:
                taken = isinstance(exc, StoreFull) and (yield from self._take_staged(inodes[0]))
                return {} if taken else {inodes[0]: exc}
        else:
            return self._lost(inodes)
        failures: Failures = {}
        for inode in inodes:
            failures |= yield from self.ingest_apart([inode], done=done)
        return failures

    def _take_staged(self, inode: InodeNumber) -> Job[bool]:
        """Put a file's staged bytes into chunks, and nothing else; return whether none is left."""
        try:
            yield from self.ingest([inode], complete=False, urgent=True)
        except (ModelfsError, OSError):
            return False
        staged = self._store.staging.find(inode)
        return staged is None or not staged.staged_bytes

    def _lost(self, inodes: Sequence[InodeNumber]) -> Failures:
        """Return an error for each file with bytes that the disk has lost: they stay staged."""
        failures: Failures = {}
        for staged in filter(None, map(self._store.staging.find, inodes)):
            try:
                self._store.flusher.check_losses(staged)
            except LostBytes as exc:
                failures[staged.inode] = exc
        return failures

    def _ingest_next_regions(self, passes: Sequence[Pass]) -> Job[tuple[list[Region], list[Pass]]]:
        """Ingest the next region of each pass that begins before the end of its file.

        Returns:
            The regions that were ingested, and the passes without a next region.
        """
        regions: list[Region] = []
        ended: list[Pass] = []
        for file_pass in passes:
            yield Pause()
            region = self._applier.next_region(file_pass)
            if region is None or region.start >= file_pass.end:
                ended.append(file_pass)
            else:
                regions.append(region)
        if not regions:
            return [], ended
        done: list[Region]
        with self._store.writing() as writer:
            done, written = yield Work(partial(self._worker.work, regions, writer))
        yield from pausing(self._store.publish(written))
        for region in done:
            yield from pausing(self._applier.apply(region))
            yield Pause()
        return done, ended


def ingest_all(store: Store) -> Job[None]:
    """Put all staged bytes into chunks, and commit. Bytes of a file that fails stay staged.

    Raises:
        OSError: as `raise_first`; all other files are ingested.
    """
    ingest = Ingest(store)
    failures: Failures = {}
    for inodes, _, _ in sync_rounds(store):
        failures |= yield from ingest.ingest_apart(inodes)
    yield Commit()
    raise_first(store, failures)


def raise_first(store: Store, failures: Failures) -> None:
    """Raise the first of the failures, if there is one, with the file's path.

    Raises:
        OSError: a file failed, with the errno of its failure, which is the cause.
    """
    if not failures:
        return
    inode, problem = next(iter(failures.items()))
    name = os.fsdecode(store.namespace.path_of(inode))
    others = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    reason = (isinstance(problem, OSError) and problem.strerror) or str(problem)
    raise OSError(problem.errno, f"cannot store {name}{others} in chunks: {reason}") from problem
