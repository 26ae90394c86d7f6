"""Packs: append-only files that hold the stored bytes of chunks.

Theory of operation. Chunks are appended in *segments*, many with one write (see `packs.segment`).
Keeping values apart from the index is WiscKey's idea (FAST 2016). A pack is *sealed* when it
reaches `PACK_SIZE`, or the reserve of a small disk (see `disk.space`). Afterwards no byte of it
changes; but gc may cut off its end, when no record points there (see `packs.cuts`).

The index records the committed end of each pack, its `stop`. Bytes behind `stop` were never
committed; they are cut off when the store is opened, or when a writer is rolled back. The order of
a write is: append, `flush()`, and only then the index. The tables of the segments repeat the chunk
records of the index: gc lists a pack's chunks without a scan of the index, and a repair restores
lost chunk records from them.

Example. Pack 3 is committed up to 20 MiB. A writer appends a segment of 16 MiB: the tail is 36 MiB,
the row of pack 3 still has 20 MiB. After `flush()` the index gets the chunks and `stop` = 36 MiB.
If the process is killed before that commit, the next open cuts pack 3 back to 20 MiB.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from modelfs.errors import CorruptPack
from modelfs.store.disk.deferred import DeferredDeletes
from modelfs.store.disk.descriptors import (
    Descriptor,
    Descriptors,
    read_at,
    sync,
    write_at,
)
from modelfs.store.disk.directory import Directory
from modelfs.store.disk.space import Space
from modelfs.store.index.tables import PackId
from modelfs.store.packs.cuts import DeferredCuts
from modelfs.store.packs.header import Header, pack_name, pack_number
from modelfs.store.packs.segment import (
    HEAD,
    PAGE,
    Entry,
    Segment,
    decode_head,
    decode_table,
)

log = logging.getLogger(__name__)

PACK_SIZE: Final = 256 << 20
# On small disks a segment is this part of the reserve, as gc must be able to copy one when the
# reserve is in use.
SEGMENT_PART: Final = 1 / 16
SEGMENT_SIZE_MIN: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SegmentTable:
    """The table of one segment, and the segment's end."""

    pack: PackId
    stop: int  # offset of the next segment
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a pack: the offset of its next segment."""

    pack: PackId
    stop: int


@contextmanager
def eio_as_corruption() -> Iterator[None]:
    """Turn EIO on a pack read into `CorruptPack`, for callers that can skip a chunk."""
    try:
        yield
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        raise CorruptPack(str(exc)) from exc


class Packs:
    """The pack files of a store. Any thread may read; one thread at a time may write."""

    def __init__(
        self, folder: Directory, uuid: bytes, space: Space, *, read_only: bool = False
    ) -> None:
        """Open the packs of a folder.

        Args:
            folder: of the pack files.
            uuid: of the store, 16 bytes.
            space: checks that the disk has space before a segment is appended.
            read_only: open the files for reading.
        """
        self.directory = folder
        self._space = space
        self._size_max = reserve = space.reserve_bytes
        # Bytes of decoded chunks at which a segment is written, if not before.
        self.segment_size = max(SEGMENT_SIZE_MIN, int(reserve * SEGMENT_PART))
        self._uuid = uuid
        self._files = Descriptors(folder, os.O_RDONLY if read_only else os.O_RDWR)
        self.deletes = DeferredDeletes(folder, self._files)
        self.cuts = DeferredCuts(folder, self._files)
        self._sealed: set[PackId] = set()  # to which nothing is appended any more
        self._tail: Tail | None = None  # where the next segment goes; None: to a new pack
        self._next = PackId(1)
        self._unflushed: set[PackId] = set()
        self._unpublished: set[PackId] = set()
        self._folder_changed = False

    def open_at(self, tail: Tail | None, next_pack: PackId) -> None:
        """Begin writing at `tail`, or at the start of pack `next_pack` if there is no tail."""
        self._tail = tail
        self._next = next_pack

    # -- reading

    def descriptor(self, pack: PackId) -> Descriptor:
        """Return the open file of a pack. It stays readable while the caller keeps the object.

        Raises:
            CorruptPack: the file is missing.
        """
        try:
            return self._files.get(pack_name(pack))
        except FileNotFoundError as exc:
            raise CorruptPack(f"pack {pack} is missing") from exc

    def read(self, pack: PackId, offset: int, size: int) -> bytes:
        """Return stored bytes.

        Raises:
            CorruptPack: the pack is missing, or ends before `offset + size`.
        """
        file = self.descriptor(pack)
        # Before the read, which allocates `size` bytes first: a damaged record may have any size.
        if (end := os.fstat(file.fd).st_size) < offset + size:
            raise CorruptPack(f"pack {pack} ends at {end}, inside a chunk")
        data = read_at(file, offset, size)
        if len(data) < size:
            raise CorruptPack(f"pack {pack} ends at {offset + len(data)}, inside a chunk")
        return data

    def entries(self, pack: PackId, stop: int) -> Iterator[Entry]:
        """Yield the entries of all segment tables of a pack, up to offset `stop`.

        Raises:
            CorruptPack: the pack's header or a segment's table is damaged.
        """
        self.check_header(pack)
        yield from self.entries_from(pack, PAGE, stop)

    def entries_from(self, pack: PackId, start: int, stop: int) -> Iterator[Entry]:
        """Yield the entries of the segment tables from `start`, where one begins, up to `stop`.

        Raises:
            CorruptPack: a segment's table is damaged.
        """
        offset = start
        while offset < stop:
            segment = self.segment(pack, offset, stop)
            yield from segment.entries
            offset = segment.stop

    def segment(self, pack: PackId, start: int, stop: int) -> SegmentTable:
        """Return the table of the segment at `start`, in a pack that is committed up to `stop`.

        Raises:
            CorruptPack: the table is damaged, or the segment would end behind `stop`.
        """
        where = f"pack {pack}, segment at {start}"
        head = self.read(pack, start, HEAD.size)
        size, table_size = decode_head(head, stop - start, where)
        table = self.read(pack, start + HEAD.size, table_size)
        return SegmentTable(pack, start + size, decode_table(head, table, where))

    def check_header(self, pack: PackId) -> None:
        """Check that a pack's file has the header of this pack and this store.

        Raises:
            CorruptPack: it has another header.
        """
        header = Header(pack, self._uuid).to_bytes()
        if self.read(pack, 0, len(header)) != header:
            raise CorruptPack(f"pack {pack}: the file's header is damaged or another pack's")

    def numbers(self) -> set[PackId]:
        """Return the numbers of all pack files in the folder."""
        numbers = map(pack_number, self.directory.names())
        return {number for number in numbers if number is not None}

    # -- writing

    def append(self, segment: Segment, *, for_gc: bool = False) -> tuple[list[Entry], Tail]:
        """Write a segment. It is durable after the next `flush`.

        Args:
            segment: with at least one chunk.
            for_gc: the room is that of gc: see `Space.spend`.

        Returns:
            The chunks' entries, in the order of `Segment.add`, and the pack's new end.

        Raises:
            StoreFull: the disk has no space; nothing was written.
            OSError: part of the segment may be written; the tail did not move.
        """
        try:
            return self._append(segment, for_gc=for_gc)
        except OSError as exc:
            if not self._space.release(exc):
                raise
        return self._append(segment, for_gc=for_gc)

    def _append(self, segment: Segment, *, for_gc: bool) -> tuple[list[Entry], Tail]:
        size_at_most = segment.size_at_most
        self._space.spend(size_at_most + PAGE, for_gc=for_gc)
        size = size_at_most
        try:
            tail = self._tail
            if tail is None or tail.stop + size_at_most > min(PACK_SIZE, self._size_max):
                tail = self._tail = self._create_next()
            entries, buffers, size = segment.layout(tail.stop)
            file = self._files.get(pack_name(tail.pack))
            # Behind the end of a file, XFS allocates as much again as the file has, and keeps it.
            os.ftruncate(file.fd, tail.stop + size)
            try:
                write_at(file, tail.stop, buffers)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fd, tail.stop)
                raise
        finally:
            self._space.arrive(size_at_most + PAGE, size + PAGE)
        self._unflushed.add(tail.pack)
        self._unpublished.add(tail.pack)
        self._tail = Tail(tail.pack, tail.stop + size)
        return entries, self._tail

    def _create_next(self) -> Tail:
        """Create the next pack, and return its tail behind the header."""
        # The number is spent even if this fails, since the failure may leave the pack's file.
        pack, self._next = self._next, PackId(self._next + 1)
        file = self._files.get(pack_name(pack), os.O_CREAT | os.O_EXCL)
        self._unflushed.add(pack)
        self._unpublished.add(pack)
        self._folder_changed = True
        write_at(file, 0, [Header(pack, self._uuid).to_bytes().ljust(PAGE, b"\0")])
        return Tail(pack, PAGE)

    def flush(self) -> None:
        """Make all appended segments durable.

        Raises:
            OSError: any part of them may be missing on the disk; call `roll_back`.
        """
        try:
            for pack in sorted(self._unflushed):
                sync(self._files.get(pack_name(pack)))
            if self._folder_changed:
                self.directory.sync()
        except OSError as exc:
            self._space.release(exc)  # not to repeat it: the kernel may have dropped bytes
            raise
        self._folder_changed = False
        self._unflushed.clear()

    def published(self) -> None:
        """Note that the index now has every segment appended so far."""
        self._unpublished.clear()

    def roll_back(self, tail: Tail | None) -> None:
        """Remove the segments that the index does not have, after an error.

        Args:
            tail: the end of the newest pack as the index records it, where writing goes on.
        """
        unpublished, self._unpublished = sorted(self._unpublished), set()
        self._unflushed.clear()
        self._tail = None if tail is not None and tail.pack in self._sealed else tail
        for pack in unpublished:
            try:
                if tail is not None and pack == tail.pack:
                    os.ftruncate(self._files.get(pack_name(pack)).fd, tail.stop)
                else:
                    self.remove(pack)
            except OSError as exc:
                # The next segment overwrites these bytes, or the next open removes them.
                log.warning("pack %d keeps bytes of a failed write: %s", pack, exc)

    def seal(self, pack: PackId) -> None:
        """Append nothing more to `pack`: the next segment begins a new pack."""
        self._sealed.add(pack)
        if self._tail is not None and self._tail.pack == pack:
            self._tail = None

    def remove(self, pack: PackId) -> None:
        """Delete the file of a pack that the committed index does not mention.

        Raises:
            OSError: it cannot be deleted.
        """
        self._files.forget(pack_name(pack))
        self.directory.unlink(pack_name(pack))

    def delete_after_commit(self, pack: PackId) -> None:
        """Let the next commit delete the file of a pack that it no longer mentions."""
        self.deletes.after_commit(pack_name(pack))

    def cut_after_commit(self, tail: Tail) -> None:
        """Let the next commit, which has the new end of a sealed pack, cut its file there."""
        self.cuts.after_commit((pack_name(tail.pack), tail.stop))

    def reaches(self, tail: Tail) -> bool:
        """Whether a pack's file exists and is at least as long as `tail`."""
        try:
            return self.size(tail.pack) >= tail.stop
        except CorruptPack:
            return False

    def size(self, pack: PackId) -> int:
        """Return the length of a pack's file, in bytes.

        Raises:
            CorruptPack: the file is missing.
        """
        return os.fstat(self.descriptor(pack).fd).st_size

    def truncate(self, tail: Tail) -> None:
        """Cut off the bytes behind `tail`, which were never committed."""
        if self.size(tail.pack) > tail.stop:
            os.ftruncate(self.descriptor(tail.pack).fd, tail.stop)

    def close(self) -> None:
        self._files.clear()
