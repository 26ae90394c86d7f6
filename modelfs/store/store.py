"""The store: everything durable, put together.

A store belongs to one process, and in it to one thread, the *owner*. Methods are for the owner and
quick, unless they say "any thread". A store opened read-only sees the last commit, and may be
opened while another process writes.

What takes long is done by jobs (`modelfs.jobs`), which take a store. The store itself opens,
flushes, commits, closes and counts.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from modelfs.store.chunks.cache import CAPACITY, ChunkCache
from modelfs.store.chunks.publish import Publisher, StillValid
from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.chunks.reclaim import Reclaimer
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.disk.calls import Calls, run_here
from modelfs.store.disk.space import Space, disk_usage
from modelfs.store.files.attributes import Attributes
from modelfs.store.files.content import Contents
from modelfs.store.files.extent_cache import ExtentCache
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.flush import Flusher
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.namespace import Namespace
from modelfs.store.files.orphans import Orphans
from modelfs.store.files.staging import Staging
from modelfs.store.files.writes import Writes
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
from modelfs.store.index.tables import InodeNumber, Table, number_of
from modelfs.store.packs.pack import Packs
from modelfs.store.recovery import committed_tail, load_staged, remove_uncommitted
from modelfs.store.statistics import Statistics

log = logging.getLogger(__name__)


class Store:
    """An open store."""

    superblock: Superblock
    # On the disk.
    space: Space
    index: Index
    counters: Counters
    packs: Packs
    # Chunks.
    cache: ChunkCache
    chunks: ChunkTable
    chunk_reader: ChunkReader
    reclaimer: Reclaimer
    # Files.
    inodes: Inodes
    namespace: Namespace
    attributes: Attributes
    maps: FileMaps
    staging: Staging
    contents: Contents
    writes: Writes
    flusher: Flusher
    orphans: Orphans

    def __init__(
        self,
        folder: Path,
        *,
        read_only: bool = False,
        exclude_writers: bool = False,
        recover: bool = True,
        cache_size: int = CAPACITY,
        limit: int | None = None,
    ) -> None:
        """Open a store; for writing, take its lock and bring it to its last commit.

        Args:
            folder: the store.
            read_only: see the last commit; other processes may read, and one may write.
            exclude_writers: with `read_only`, keep other processes from opening it for writing.
                For callers that keep what they read, such as a mount and its caches.
            recover: False for repair: take the lock, but remove nothing and load no staged file.
            cache_size: of decoded chunks in memory, in bytes.
            limit: how many bytes the store may take on its disk; None: what is there.

        Raises:
            NotAStore: the folder is none.
            UnsupportedFormat: a newer version wrote it.
            StoreBusy: another process has it open for writing.
            CorruptIndex: its index cannot be read.
        """
        self.folder = folder.resolve()
        self.read_only = read_only
        check_format(self.folder)
        self._lock: int | None = None
        if not read_only:
            self._lock = lock(self.folder, fcntl.LOCK_EX)
        elif exclude_writers:
            self._lock = lock(self.folder, fcntl.LOCK_SH)
        try:
            self.space = Space(self.folder, limit)
            self._open(cache_size, recover=recover)
        except BaseException:
            self._unlock()
            raise

    def _open(self, cache_size: int, *, recover: bool) -> None:
        check_index(self.folder)
        self.index = Index(
            self.folder / INDEX, read_only=self.read_only, exclude_writers=self._lock is not None
        )
        try:
            self._open_parts(cache_size)
            if recover:
                load_staged(self.staging, self.inodes)
            if recover and not self.read_only:
                self.superblock = upgrade(self.folder, self.index, self.superblock)
                remove_uncommitted(self.index, self.packs, self.staging)
        except BaseException:
            self.index.close()
            raise

    def _open_parts(self, cache_size: int) -> None:
        index, read_only = self.index, self.read_only
        self.superblock = read_superblock(index)
        self.counters = Counters(index)
        self.packs = Packs(
            self.folder / PACKS, self.superblock.uuid, self.space, read_only=read_only
        )
        self.cache = ChunkCache(cache_size)
        self.chunks = ChunkTable(index, self.counters, self.superblock.hash_seed)
        self.chunk_reader = ChunkReader(self.chunks, self.packs, self.cache)
        self.reclaimer = Reclaimer(index, self.chunks, self.chunk_reader, self.packs)
        self._publisher = Publisher(index, self.counters, self.chunks, self.packs)

        self.inodes = Inodes(index, self.counters)
        self.namespace = Namespace(index, self.counters, self.inodes)
        self.maps = FileMaps(index, self.chunks, self.superblock.chunk_size)
        self.staging = Staging(self.folder / STAGING, index, read_only=read_only)
        self.attributes = Attributes(index, self.inodes, self.staging)
        extents = ExtentCache(index, self.maps, self.chunks)
        self.contents = Contents(self.inodes, extents, self.chunk_reader, self.packs, self.staging)
        self.writes = Writes(self.contents, self.staging)
        self.flusher = Flusher(index, self.inodes, self.maps, self.staging)
        self.orphans = Orphans(index, self.inodes, self.maps, self.staging)

    def reload_staged(self) -> None:
        """Read what is staged as of the last commit, if another process writes the store."""
        assert self.read_only, "the owner's own state is newer"
        self.staging.forget_all()
        load_staged(self.staging, self.inodes)

    def close(self) -> None:
        """Make everything durable that was written, and release the store.

        Raises:
            StoreFull, OSError: something could not be made durable. The store is released all
                the same.
        """
        try:
            if not self.read_only:
                try:
                    run_here(self.flusher.flush_all([staged.inode for staged in self.staging]))
                finally:
                    self.commit()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Release the store as a crash would: what was not committed is lost."""
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

    # -- durability

    def flush(self, inode: InodeNumber) -> None:
        """Put a file's staged content where the next commit makes it durable, here and now.

        Raises:
            OSError: the disk refused the bytes.
        """
        run_here(self.flusher.flush(inode))

    def commit(self) -> None:
        """Make every change made so far durable, here and now.

        Raises:
            StoreFull: the disk or the index is full; nothing is lost, and it may be tried again.
        """
        if self.index.dirty:
            run_here(self.commit_calls())

    def commit_calls(self) -> Calls:
        """Seal the changes made so far, and make them durable.

        Yields two slow calls, each for any thread before the commit goes on: one writes the
        changes, one deletes the files that they no longer mention. Changes made meanwhile are the
        next commit's. If the first call raises, close the generator: the changes and the files
        wait for the next commit.
        """
        sealed = self.index.seal()
        deletes = [(each, each.drain()) for each in (self.staging.deletes, self.packs.deletes)]
        written = _Written(sealed)
        try:
            yield written
        finally:
            if written.done:
                self.index.release()
            else:
                for each, names in deletes:
                    each.restore(names)

        def delete() -> None:
            # A crash may leave such files, too: the next open deletes what is left here.
            try:
                for each, names in deletes:
                    each.run(names)
            except OSError as exc:
                log.warning("a file that is not needed any more cannot be deleted: %s", exc)

        yield delete

    # -- writing chunks

    def writer(self) -> ChunkWriter:
        """Return a writer of chunks; one at a time, until published or rolled back."""
        return ChunkWriter(
            self.chunks, self.chunk_reader, self.packs, self.counters.get(NEXT_CHUNK)
        )

    @contextmanager
    def writing(self) -> Iterator[ChunkWriter]:
        """Yield a writer, and roll back what it appended if the block raises."""
        writer = self.writer()
        try:
            yield writer
        except BaseException:
            self.roll_back_writer()
            raise

    def roll_back_writer(self) -> None:
        """Forget what a writer appended that failed."""
        self.packs.roll_back(committed_tail(self.index, self.packs))

    def publish(self, result: WriteResult, still_valid: StillValid | None = None) -> Iterator[None]:
        """Put what a writer stored into the index: see `Publisher.publish`."""
        return self._publisher.publish(result, still_valid)

    # -- statistics

    @property
    def in_use(self) -> bool:
        """Whether a daemon has it, or ended without having made everything durable."""
        return self.counters.get(IN_USE) > 0

    def set_in_use(self, *, in_use: bool) -> None:
        with self.index.change():
            self.counters.set(IN_USE, int(in_use))

    def pending(self) -> list[InodeNumber]:
        """Return the files with content for ingest: staged bytes, or a cut that may be better."""
        return sorted({*self.requested(), *(staged.inode for staged in self.staging)})

    def requested(self) -> list[InodeNumber]:
        """Return the files that ingest was asked to look at again."""
        return [InodeNumber(number_of(key)) for key, _ in self.index.pages(Table.PENDING)]

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


class _Written:
    """The call that writes a sealed commit, which remembers whether it did."""

    def __init__(self, sealed: CommitBatch) -> None:
        self._sealed = sealed
        self.done = False

    def __call__(self) -> None:
        self._sealed.write()
        self.done = True
