"""The store: its parts, and opening, flushing, committing and closing.

A store belongs to one process, and there to one thread, the *owner*. Methods are for the owner and
quick, unless their docstring says "any thread". A store opened read-only shows the last commit. If
other processes may write it meanwhile, it has no owner: any thread may read. Long work is done by
jobs (`modelfs.jobs`), which take a store.

Example::

    with Store(folder) as store:
        inode = store.namespace.create(ROOT, b"a", 0o100644, Owner(0, 0)).inode
        store.writes.write(inode, 0, b"hello")       # in a staging file
        store.contents.read(inode, 0, 5)             # b"hello"
        store.flush(inode)                           # the staging file is synced
        store.commit()                               # the index is durable, too: as after fsync(2)
"""

import contextlib
import fcntl
import io
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from modelfs.store.chunks.base_only import BaseOnly
from modelfs.store.chunks.cache import CAPACITY, ChunkCache
from modelfs.store.chunks.publish import Publisher, StillValid
from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.chunks.reclaim import Reclaimer
from modelfs.store.chunks.stored_bytes import StoredBytes
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.disk.calls import Calls, run_here
from modelfs.store.disk.deferred import Deferred
from modelfs.store.disk.directory import Directory
from modelfs.store.disk.space import Space
from modelfs.store.exclusion import WriterExclusion, lock_out_writers
from modelfs.store.files.attributes import Attributes
from modelfs.store.files.clones import Clones
from modelfs.store.files.content import Contents
from modelfs.store.files.dentries import Dentries
from modelfs.store.files.extent_cache import ExtentCache
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.flush import Flusher
from modelfs.store.files.holes import Holes
from modelfs.store.files.inode_totals import TOTALS_SINCE
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.map_edits import MapEdits
from modelfs.store.files.namespace import Namespace
from modelfs.store.files.orphans import Orphans
from modelfs.store.files.staged_at_rest import (
    add_checksums,
    compare_checksums,
    remove_checksums,
)
from modelfs.store.files.staging import Staging
from modelfs.store.files.writes import Writes
from modelfs.store.folder import (
    PACKS,
    STAGING,
    check_finished,
    check_format,
    lock,
    open_content_folder,
    open_folder,
    open_index_folder,
    read_superblock,
)
from modelfs.store.index.counters import (
    IN_USE,
    NEXT_CHUNK,
    NEXT_PACK,
    SESSION,
    Counters,
)
from modelfs.store.index.index import Index
from modelfs.store.index.pages.data_file import DATA_FILE
from modelfs.store.index.superblock import Superblock
from modelfs.store.index.tables import InodeNumber, PackId, Table
from modelfs.store.packs.pack import Packs
from modelfs.store.recovery import committed_tail, load_staged, remove_uncommitted
from modelfs.store.sessions import begin_session
from modelfs.store.statistics import Inventory
from modelfs.store.upgrade import begin_upgrade, commit_upgrade


class Store:
    """An open store."""

    superblock: Superblock
    # On the disk.
    directory: Directory
    space: Space
    index: Index
    exclusion: WriterExclusion
    counters: Counters
    packs: Packs
    # Chunks.
    cache: ChunkCache
    chunks: ChunkTable
    stored_bytes: StoredBytes
    chunk_reader: ChunkReader
    base_only: BaseOnly
    reclaimer: Reclaimer
    # Files.
    inodes: Inodes
    dentries: Dentries
    namespace: Namespace
    attributes: Attributes
    maps: FileMaps
    staging: Staging
    contents: Contents
    writes: Writes
    holes: Holes
    flusher: Flusher
    edits: MapEdits
    clones: Clones
    orphans: Orphans
    # Statistics.
    inventory: Inventory

    def __init__(  # noqa: PLR0913 - one for each choice of a caller
        self,
        folder: Path | Directory,
        *,
        read_only: bool = False,
        exclude_writers: bool = False,
        recover: bool = True,
        cache_size: int = CAPACITY,
        limit: int | None = None,
        trust: bool = False,
    ) -> None:
        """Open a store. For writing, lock it and bring it to its last commit.

        Args:
            folder: of the store: its path, or a result of `find_store`, which stays open.
            read_only: show the last commit; other processes may read, and one may write, unless
                this one has no permission to write the index's lock file: see `exclusion`.
            exclude_writers: with `read_only`, keep other processes from opening it for writing.
                For callers that cache content, such as a mount.
            recover: False for repair: open the store as it is, also after an unfinished repair.
            cache_size: capacity of the cache of decoded chunks, in bytes.
            limit: the most bytes that the store may use on its disk; None: no limit.
            trust: accept any owner of the folder and all modes: see `folder`.

        Raises:
            NotAStore: the folder is no store.
            StoreNotTrusted: other users may be able to change it, and `trust` is not given.
            UnsupportedFormat: a newer version of modelfs wrote the store.
            StoreBusy: another process has locked it.
            StoreReadOnly: its lock file cannot be opened.
            CorruptIndex: its index is damaged; `IndexLost` if nothing of it can be read.
            OSError: the disk failed or is full.
        """
        self.read_only = read_only
        with contextlib.ExitStack() as opened:
            # Not left to the collector: Python ignores a Ctrl-C there, and the files stay open.
            folder_of_store = open_folder(folder, read_only=read_only, trust=trust)
            self.directory = opened.enter_context(closing(folder_of_store))
            self.folder = self.directory.path
            check_format(self.directory)
            index_folder = opened.enter_context(closing(open_index_folder(self.directory)))
            self._lock: io.FileIO | None = None
            opened.callback(self.unlock)
            if not read_only:
                self._lock = lock(self.directory, fcntl.LOCK_EX)
            elif exclude_writers:
                self._lock = lock(self.directory, fcntl.LOCK_SH)
            else:
                self._lock = lock_out_writers(self.directory, index_folder)
            if recover:
                check_finished(self.directory)
            self.index = Index(index_folder, read_only=read_only, exclude_writers=exclude_writers)
            opened.callback(self.index.close)
            self.exclusion = WriterExclusion(self.directory, self.index)
            self.superblock = read_superblock(self.index)
            self._session: bytes | None = None  # whose numbers the caches have
            self.counters = Counters(self.index)
            self._open_files(opened, limit, recover=recover)
            self._build_chunks(cache_size)
            self._build_files()
            if recover and not read_only:
                self._bring_to_last_commit()
            opened.pop_all()

    def _open_files(
        self, opened: contextlib.ExitStack, limit: int | None, *, recover: bool
    ) -> None:
        """Load and compare the staged state, divide the room on the disk, and open the packs.

        Args:
            opened: gets the folders, to close them after an error.
            limit: as for the store.
            recover: whether to load the staged state, and to hold a ballast for writing.
        """
        index, read_only = self.index, self.read_only
        staging_folder = opened.enter_context(closing(open_content_folder(self.directory, STAGING)))
        self.staging = staging = Staging(staging_folder, index, read_only=read_only)
        if recover and not index.rows.others_write:
            load_staged(staging)
            compare_checksums(index, staging)
        self.space = Space(
            Path(self.directory.link),
            limit,
            index_file=Path(index.directory.link) / DATA_FILE,
            staged=lambda: staging.bytes,
            uncommitted=lambda: index.uncommitted_bytes,
            has_ballast=recover and not read_only,
        )
        opened.callback(self.space.close)
        packs_folder = opened.enter_context(closing(open_content_folder(self.directory, PACKS)))
        self.packs = Packs(packs_folder, self.superblock.uuid, self.space, read_only=read_only)

    def _build_chunks(self, cache_size: int) -> None:
        index = self.index
        self.cache = ChunkCache(cache_size)
        self.chunks = ChunkTable(index, self.counters, self.superblock.hash_seed)
        self.stored_bytes = StoredBytes(self.chunks, self.packs, self.superblock.chunk_size)
        self.chunk_reader = ChunkReader(self.chunks, self.stored_bytes, self.cache)
        self.base_only = BaseOnly(index, self.chunks)
        self.reclaimer = Reclaimer(index, self.chunks, self.chunk_reader, self.packs)
        self._publisher = Publisher(index, self.counters, self.chunks, self.packs)

    def _build_files(self) -> None:
        index = self.index
        self.inodes = Inodes(index, self.counters)
        self.dentries = Dentries(index, self.counters)
        self.namespace = Namespace(index, self.dentries, self.inodes)
        self.maps = FileMaps(index, self.chunks, self.superblock.chunk_size)
        self.attributes = Attributes(index, self.inodes, self.staging)
        extents = ExtentCache(index, self.maps, self.chunks)
        self.contents = Contents(
            self.inodes,
            extents,
            self.chunk_reader,
            self.staging,
            partial(_has_totals, weakref.ref(self)),
        )
        self.writes = Writes(self.contents, self.staging)
        self.holes = Holes(self.contents, self.staging, self.maps, extents.complete_maps)
        self.flusher = Flusher(index, self.inodes, self.maps, self.staging, self.namespace.path_of)
        self.edits = MapEdits(index, self.contents, self.maps, self.flusher)
        self.clones = Clones(self.contents, self.staging, self.maps, self.flusher, self.edits)
        self.orphans = Orphans(index, self.inodes, self.maps, self.staging)
        self.inventory = Inventory(
            self.directory, index, self.counters, self.cache, self.inodes, self.staging
        )

    def _bring_to_last_commit(self) -> None:
        """Compact the index, upgrade it, remove uncommitted files, and begin a session."""
        self.index.file.compact(self.space.working_bytes)
        self.superblock = begin_upgrade(self.directory, self.index, self.superblock)
        remove_checksums(self.index, self.staging)
        commit_upgrade(self.index)
        tail = remove_uncommitted(self.index, self.packs, self.staging)
        begin_session(self.index, self.counters, self.staging)
        self.packs.open_at(tail, PackId(self.counters.get(NEXT_PACK)))
        self.space.hold_ballast()  # last: below a quota, these commits may need its room

    def close(self) -> None:
        """Make all writes durable, and release the store.

        Raises:
            StoreFull, LostBytes, OSError: some writes are not durable. The store is released in any
                case.
        """
        try:
            if not self.read_only:
                try:
                    run_here(self.flusher.flush_all())
                    self.staging.wholes.copies.shrink(0)
                    self.staging.wholes.empty_trash()
                    add_checksums(self.index, self.staging)
                finally:
                    self.commit()
                self.index.file.record_sums()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Release the store without a commit, as a crash does: uncommitted changes are lost."""
        self.space.close()
        self.close_files()
        self.index.close()
        self.unlock()
        self.close_folders()

    def follow_session(self) -> None:
        """Empty the caches if the index is of another session than they are. Any thread.

        Within a session, and in those that follow it, no number gets another meaning.
        """
        session = self.index.get(Table.META, SESSION)
        if session != self._session:
            self.contents.empty_caches()
            self._session = session  # last: other threads use the caches from then on

    def close_files(self) -> None:
        """Close packs and staging files until they are read again. Any thread, if read-only."""
        self.packs.close()
        self.staging.close()

    def close_folders(self) -> None:
        """Close the store's folders, after everything in them."""
        folders = (
            self.packs.directory,
            self.staging.directory,
            self.index.directory,
            self.directory,
        )
        for folder in folders:
            folder.close()

    def reload(self) -> bool:
        """Open the index again, which another process may have upgraded or replaced. Any thread.

        Returns:
            Whether it is the index of the same store; if not, it is closed again.

        Raises:
            UnsupportedFormat: a newer version of modelfs has upgraded it.
            NotAStore, CorruptIndex, OSError: as at opening.
        """
        check_format(self.directory)
        self.index.rows.reopen()
        block = read_superblock(self.index)
        if block.uuid != self.superblock.uuid:
            self.index.rows.reopen()
            return False
        self.superblock = block
        return True

    def unlock(self) -> None:
        """Let other processes write the store; callers then use `exclusion`."""
        if self._lock is not None:
            self._lock.close()
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
        """Sync a file's staged bytes, so that the next commit makes them durable. Waits.

        Raises:
            LostBytes, OSError: as `Flusher.flush`.
        """
        run_here(self.flusher.flush(inode))

    def commit(self) -> None:
        """Make every change made so far durable. Waits.

        Raises:
            StoreFull: the disk or the index is full; nothing is lost, and a later commit may
                succeed.
            OSError: the disk failed; the same holds.
        """
        if self.index.dirty:
            run_here(self.commit_calls())

    def commit_calls(self) -> Calls[None]:
        """Seal the changes made so far, and make them durable.

        Yields two slow calls (see `disk.calls`): the first writes the changes, the second deletes
        files that they no longer mention, and cuts the ends of packs. Later changes belong to the
        next commit. If the first call raises, all of this waits for the next commit, and so does
        the part that the second one cannot do, or all if it is cancelled.
        """
        batch = self.index.seal()
        staging, packs = self.staging, self.packs
        deferred: list[Deferred[Any]] = [staging.wholes.punches, staging.deletes, packs.deletes]
        deferred += [packs.cuts, staging.wholes.kept, staging.wholes.trash]
        drained = [(each, each.drain()) for each in deferred]

        def run_deferred() -> None:
            for each, work in drained:
                each.run(work)

        try:
            yield partial(self.space.with_ballast, batch.write)
            self.index.release()
            yield run_deferred
        finally:
            for each, work in drained:
                each.restore(work)

    @property
    def in_use(self) -> bool:
        """Whether a daemon serves the store, or ended before all writes were durable."""
        return self.counters.get(IN_USE) > 0

    def set_in_use(self, *, in_use: bool) -> None:
        """Change `in_use`, with the next commit."""
        with self.index.change():
            self.counters.set(IN_USE, int(in_use))

    # -- writing chunks

    def writer(self, *, for_gc: bool = False) -> ChunkWriter:
        """Return a writer of chunks. Only one at a time, until it is published or rolled back.

        Args:
            for_gc: the next commit frees more than the writer takes: see `Space.spend`.
        """
        next_chunk = self.counters.get(NEXT_CHUNK)
        return ChunkWriter(self.chunks, self.chunk_reader, self.packs, next_chunk, for_gc=for_gc)

    @contextmanager
    def writing(self, *, for_gc: bool = False) -> Iterator[ChunkWriter]:
        """Yield a writer as `writer` does, and roll it back if the block raises."""
        writer = self.writer(for_gc=for_gc)
        try:
            yield writer
        except BaseException:
            self.roll_back_writer()
            raise

    def roll_back_writer(self) -> None:
        """Remove from the packs everything that is not published."""
        self.packs.roll_back(committed_tail(self.index, self.packs))

    def publish(self, result: WriteResult, still_valid: StillValid | None = None) -> Iterator[None]:
        """Enter a writer's result into the index, a slice at a time: see `Publisher.publish`."""
        return self._publisher.publish(result, still_valid)


def _has_totals(store: weakref.ref[Store]) -> bool:
    """Whether the inodes of a store have totals."""
    # By a weak reference: a cycle would keep the files of a store open that Ctrl-C has interrupted.
    found = store()
    return found is not None and found.superblock.version >= TOTALS_SINCE
