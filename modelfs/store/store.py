"""The store: everything durable, put together.

A store belongs to one process, and in it to one thread, the *owner*. Methods are for the owner and
quick, unless they say "any thread". A store opened read-only sees the last commit, and may be
opened while another process writes.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from modelfs.jobs.defrag.rewrite import Defragmenter
from modelfs.jobs.gc.collector import LIVE_MIN, Collector
from modelfs.jobs.ingest.apply import Intake, Parts
from modelfs.jobs.ingest.copies import CopyHints
from modelfs.jobs.ingest.external_data import ExternalData
from modelfs.jobs.ingest.worker import Ingest
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.similarity import SimilarityIndex
from modelfs.jobs.optimize.worker import RunOptions, Worker
from modelfs.jobs.scrub.scrubber import Scrubber
from modelfs.store.chunks.cache import CAPACITY, ChunkCache
from modelfs.store.chunks.table import Chunks
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.disk.space import Space
from modelfs.store.files.attributes import Attributes
from modelfs.store.files.content import Contents
from modelfs.store.files.extent_cache import ExtentCache
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.namespace import Namespace
from modelfs.store.files.orphans import Orphans
from modelfs.store.files.staging import Staging
from modelfs.store.files.tensors import TensorTable
from modelfs.store.folder import (
    INDEX,
    PACKS,
    STAGING,
    check_format,
    check_index,
    lock,
    read_superblock,
    upgrade,
)
from modelfs.store.index.counters import (
    BASE_ONLY_BYTES,
    BASE_ONLY_CHUNKS,
    FILES,
    IN_USE,
    LOGICAL,
    NEXT_CHUNK,
    SHARED,
    Counters,
)
from modelfs.store.index.index import CommitBatch, Index
from modelfs.store.index.records import Superblock
from modelfs.store.index.tables import InodeNumber, PackId, Table, number_of
from modelfs.store.packs.pack import Packs
from modelfs.store.recovery import committed_tail, load_staged, remove_uncommitted
from modelfs.store.statistics import Statistics, disk_usage

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Commit:
    """Changes on their way to the disk, and the files to delete when they are there."""

    batch: CommitBatch
    staging_files: list[str]
    packs: list[PackId]


class Store:
    """An open store."""

    superblock: Superblock

    def __init__(
        self,
        folder: Path,
        *,
        read_only: bool = False,
        unchanging: bool = False,
        as_found: bool = False,
        cache_size: int = CAPACITY,
        limit: int | None = None,
    ) -> None:
        """Open a store; for writing, bring it to its last commit and take its lock.

        Args:
            folder: the store.
            read_only: see the last commit; other processes may read, and one may write.
            unchanging: with `read_only`, let nobody open it for writing meanwhile. For who keeps
                what was read, such as a mount's caches.
            as_found: for repair, take the lock, but remove nothing and load nothing that is staged.
            cache_size: of decoded chunks in memory, in bytes.
            limit: what the store may take on its disk, in bytes; None: what is there.

        Raises:
            NotAStore: the folder is none.
            UnsupportedFormat: it was written by a newer version.
            StoreBusy: another process has it open for writing.
            CorruptIndex: its index cannot be read.
        """
        self.folder = folder.resolve()
        self.read_only = read_only
        self._as_found = as_found
        check_format(self.folder)
        self._lock: int | None = None
        if not read_only:
            self._lock = lock(self.folder, fcntl.LOCK_EX)
        elif unchanging:
            self._lock = lock(self.folder, fcntl.LOCK_SH)
        try:
            self.space = Space(self.folder, limit)
            self._open(cache_size)
        except BaseException:
            self._unlock()
            raise

    def _open(self, cache_size: int) -> None:
        check_index(self.folder)
        self.index = Index(
            self.folder / INDEX, read_only=self.read_only, unchanging=self._lock is not None
        )
        try:
            self._put_together(cache_size, read_only=self.read_only)
            if self._as_found:
                return
            load_staged(self.staging, self.inodes)
            if not self.read_only:
                self._upgrade()
                remove_uncommitted(self.index, self.packs, self.staging)
        except BaseException:
            self.index.close()
            raise

    def _upgrade(self) -> None:
        if self.superblock.version < 2:
            self.optimizer.walk_all()  # nobody listed what is there
        self.superblock = upgrade(self.folder, self.index, self.superblock)

    def _put_together(self, cache_size: int, *, read_only: bool) -> None:
        self.superblock = read_superblock(self.index)
        self.cache = ChunkCache(cache_size)
        self.counters = Counters(self.index)
        self.inodes = Inodes(self.index, self.counters)
        self.packs = Packs(
            self.folder / PACKS, self.superblock.uuid, self.space, read_only=read_only
        )
        self.chunks = Chunks(
            self.index, self.packs, self.counters, self.cache, self.superblock.hash_seed
        )
        self.maps = FileMaps(self.index, self.chunks, self.superblock.chunk_size)
        self.staging = Staging(self.folder / STAGING, self.index, read_only=read_only)
        extents = ExtentCache(self.index, self.maps, self.chunks)
        self.contents = Contents(self.inodes, extents, self.chunks, self.packs, self.staging)
        self.namespace = Namespace(self.index, self.counters, self.inodes)
        self.attributes = Attributes(self.index, self.inodes, self.staging)
        self._put_changers_together()

    def _put_changers_together(self) -> None:
        # What moves content on: into chunks, out of the index, to other packs.
        self.external_data = ExternalData(self.index, self.inodes, self.namespace)
        tensors = TensorTable(self.index)
        copy_hints = CopyHints(self.index, self.inodes, tensors, self.superblock.hash_seed)
        self.ingest = Ingest(
            self.contents,
            self.maps,
            self.external_data,
            copy_hints,
            tensors,
            self.superblock.chunk_size,
        )
        self.intake = Intake(
            Parts(
                self.index,
                self.counters,
                self.inodes,
                self.chunks,
                self.packs,
                self.maps,
                self.staging,
                self.contents,
                self.external_data,
                copy_hints,
            )
        )
        self.orphans = Orphans(self.index, self.inodes, self.maps, self.staging)
        self.relatives = SimilarityIndex(self.index, tensors)
        hints = self.external_data, copy_hints, self.relatives
        self.collector = Collector(self.index, self.chunks, self.packs, hints)
        self.packer = Defragmenter(self.index, self.chunks, self.packs, self.space)
        self.scrubber = Scrubber(self.index, self.counters, self.chunks, self.packs)
        self.optimizer = Backlog(self.index, self.inodes, self.chunks, self.staging, self.relatives)

    def close(self) -> None:
        """Make everything durable that was written, and let go of the store."""
        try:
            if not self.read_only:
                self._flush_all()
        finally:
            self.abandon()

    def _flush_all(self) -> None:
        failures: list[OSError] = []
        for staged in self.staging:
            try:
                self.flush(staged.inode)
            except OSError as exc:
                failures.append(exc)  # the others are to be durable all the same
        self.commit()
        if failures:
            raise failures[0]

    def abandon(self) -> None:
        """Let go of the store as a crash would."""
        self.packs.close()
        self.staging.close()
        self.index.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    # -- committing

    def begin_commit(self) -> Commit:
        """Seal the changes made so far. Then `write_commit`, then `end_commit`."""
        return Commit(self.index.seal(), self.staging.doomed(), self.collector.doomed())

    def write_commit(self, commit: Commit) -> None:
        """Make sealed changes durable. Any thread, one at a time.

        Raises:
            StoreFull: the disk or the index is full; nothing is lost, and it may be tried again.
        """
        commit.batch.write()

    def end_commit(self, commit: Commit, *, written: bool) -> None:
        """End a commit, whether it was written or failed."""
        if written:
            self.index.release()
        else:
            self.staging.doom(commit.staging_files)
            self.collector.doom(commit.packs)

    def sweep(self, commit: Commit) -> None:
        """Delete the files that a written commit no longer mentions. Any thread.

        What cannot be deleted now is when the store is next opened.
        """
        try:
            self.staging.sweep(commit.staging_files)
            for pack in commit.packs:
                self.packs.remove(pack)
        except OSError as exc:
            log.warning("a file that is not needed any more cannot be deleted: %s", exc)

    def commit(self) -> None:
        """Make every change made so far durable, here and now."""
        if self.index.dirty:
            commit = self.begin_commit()
            written = False
            try:
                self.write_commit(commit)
                written = True
            finally:
                self.end_commit(commit, written=written)
            self.sweep(commit)

    # -- flushing and ingesting, here and now

    def flush(self, inode: InodeNumber) -> None:
        """Put a file's staged content where the next commit makes it durable."""
        while (flush := self.intake.begin_flush(inode)) is not None:
            try:
                self.staging.sync(inode, flush.windows)
            except OSError as exc:
                self.intake.fail_flush(flush, exc)
                raise
            if self.intake.finish_flush(flush):
                return

    def writer(self) -> ChunkWriter:
        """Return a writer of chunks; one at a time, until its result was taken or given up."""
        return ChunkWriter(self.chunks, self.packs, self.counters.get(NEXT_CHUNK))

    @contextmanager
    def writing(self) -> Iterator[ChunkWriter]:
        """Yield a writer, and give it up if the block raises."""
        writer = self.writer()
        try:
            yield writer
        except BaseException:
            self.roll_back_writer()
            raise

    def settler(self, threads: int) -> Worker:
        """Return what does the optimizer's work, for one run, with so many threads."""
        tensors = TensorTable(self.index)
        run = RunOptions(self.optimizer.depth, threads, self.optimizer.again)
        return Worker(self.maps, self.chunks, tensors, self.relatives, run)

    def roll_back_writer(self) -> None:
        """Forget what a writer did that failed."""
        self.packs.roll_back(committed_tail(self.index, self.packs))

    def ingest_file(self, inode: InodeNumber, *, complete: bool = True) -> None:
        """Take a file's staged content into chunks."""
        while not self.intake.trim(inode):
            pass
        walk = self.intake.begin_pass(inode, complete=complete)
        while (step := self.intake.begin_step(walk)) is not None:
            with self.writing() as writer:
                told = self.ingest.run(step, writer)
                written = writer.finish()
            if not told:
                return
            self._take(written)
            while not self.intake.finish_step(step):
                pass
        if walk.layout is None:
            self.ingest.plan_empty(walk, self.contents.snapshot(inode))
        while not self.intake.note_tensors(walk):
            pass
        self.intake.end_pass(walk)

    def ingest_all(self) -> None:
        """Take everything staged into chunks, and commit. What cannot be stays staged."""
        before: list[InodeNumber] = []
        while (pending := self.pending()) != before:
            for inode in pending:
                self.ingest_file(inode)
            before = pending
        self.commit()

    def pending(self) -> list[InodeNumber]:
        """Return the files whose content is to be looked at by ingest."""
        queued = {InodeNumber(number_of(key)) for key, _ in self.index.pages(Table.PENDING)}
        return sorted(queued | {staged.inode for staged in self.staging})

    def collect(self, live_min: float = LIVE_MIN) -> int:
        """Collect all garbage here and now, and return the bytes of packs deleted.

        Args:
            live_min: packs are rewritten of which a smaller part is alive.

        Raises:
            StoreFull: no room to rewrite some pack. What could be collected is.
        """
        for inode in self.orphans.orphans():
            while not self.orphans.reap(inode):
                pass
        while self.collector.remove_dead():
            pass
        while not self.collector.sweep():
            pass
        self.commit()
        freed = 0
        for pack in self.collector.sparse_packs(live_min):
            freed += self._rewrite(pack)
            self.commit()  # which deletes the pack, and so gives the next one room
        return freed

    def _rewrite(self, pack: PackId) -> int:
        self.seal_pack(pack)
        with self.writing() as writer:
            self.collector.copy_live(pack, writer)
            written = writer.finish()
        self._take(written)
        return self.collector.retire(pack)

    def _take(self, written: WriteResult) -> None:
        while not self.intake.publish(written):
            pass

    def retire_empty_packs(self) -> None:
        """Have the packs deleted with the next commit in which nothing is alive."""
        for pack in self.collector.empty_packs():
            self.seal_pack(pack)
            self.collector.retire(pack)

    def seal_pack(self, pack: PackId) -> None:
        """Make sure that nothing is appended to a pack that is to be rewritten."""
        self.packs.seal(pack)

    # -- telling

    @property
    def in_use(self) -> bool:
        """Whether a daemon has it, or ended without having made everything durable."""
        return self.counters.get(IN_USE) > 0

    def set_in_use(self, *, in_use: bool) -> None:
        with self.index.change():
            self.counters.set(IN_USE, int(in_use))

    def disk_usage(self) -> int:
        """Return the disk space that the store takes, in bytes. Any thread."""
        return disk_usage(self.folder)

    def statistics(self, disk_bytes: int | None = None) -> Statistics:
        """Return what `stats` shows. Walks the store's folder unless `disk_bytes` is given."""
        forms = self.counters.forms()
        lost = forms.pop("lost", {"chunks": 0, "raw_bytes": 0})
        sizes = sum(staged.size - self.inodes.get(staged.inode).size for staged in self.staging)
        return Statistics(
            files=self.counters.get(FILES),
            logical_bytes=self.counters.get(LOGICAL) + sizes,
            stored_bytes=sum(form["stored_bytes"] for form in forms.values()),
            disk_bytes=self.disk_usage() if disk_bytes is None else disk_bytes,
            chunks=sum(form["chunks"] for form in forms.values()),
            shared_bytes=self.counters.get(SHARED),
            staged_bytes=sum(staged.staged_bytes for staged in self.staging),
            pending_files=len(self.pending()),
            files_to_optimize=sum(1 for _ in self.index.pages(Table.TO_OPTIMIZE)),
            base_only_chunks=self.counters.get(BASE_ONLY_CHUNKS),
            base_only_bytes=self.counters.get(BASE_ONLY_BYTES),
            lost_chunks=lost["chunks"],
            lost_bytes=lost["raw_bytes"],
            forms={name: form for name, form in forms.items() if form["chunks"]},
            cache=self.cache.statistics(),
        )
