"""Packs: append-only files that hold the stored bytes of chunks.

Theory of operation. Chunks are appended in *segments*, many with one write (see `store.segment`).
Keeping values apart from the index is WiscKey's (FAST 2016). A pack is sealed when it reaches
`PACK_SIZE`, or the reserve of a small disk (see `store.space`); nothing in it changes after that.

The index vouches for a pack up to a `stop`; what lies behind it was never committed. It is cut off
when the store is opened or when a writer gives up. The order is: append, `flush()`, and only then
the index. The segments' tables repeat what the index says: gc can tell what a pack holds without a
scan of the index, and a repair restores lost chunk records from them.

Pack file, little-endian::

    offset  type      field
    0       bytes 8   magic    "MDLPACK1"
    8       u64       pack     its number, as in the file name
    16      bytes 16  uuid     of the store
    32      u64       check    XXH3-64 of bytes 0 to 32
    40      -         zero up to 4,096
    4096    segments, each at a multiple of 4,096: see `store.segment`
"""

import errno
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from modelfs.errors import CorruptPack
from modelfs.store.disk.deferred import DeferredDeletes
from modelfs.store.disk.descriptors import (
    Descriptor,
    Descriptors,
    read_at,
    sync,
    sync_folder,
    write_at,
)
from modelfs.store.disk.space import Space
from modelfs.store.index.tables import KEY_MAX, PackId
from modelfs.store.packs.segment import HEAD, PAGE, Entry, Segment, decode_table, sizes_of

log = logging.getLogger(__name__)

PACK_SIZE: Final = 256 << 20

_PACK_HEAD = struct.Struct("<8sQ16sQ")
_PACK_MAGIC = b"MDLPACK1"


@dataclass(frozen=True, slots=True)
class SegmentTable:
    """What a segment says of itself."""

    pack: PackId
    stop: int  # where the next one begins
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Tail:
    """How far a pack is written: what the index is to vouch for once it is flushed."""

    pack: PackId
    stop: int


def pack_name(pack: int) -> str:
    return f"{pack:08d}.pack"


def pack_number(name: str) -> PackId | None:
    """Return the pack whose file has that name, None if it is no pack's name."""
    stem = name.removesuffix(".pack")
    # Not only `isdecimal`: other scripts have digits, too, and 1.pack is nobody's name.
    if not stem.isdecimal() or pack_name(int(stem)) != name:
        return None
    return PackId(int(stem))


@contextmanager
def eio_as_corruption() -> Iterator[None]:
    """Turn EIO on a pack read into `CorruptPack`, for callers that can skip a chunk."""
    try:
        yield
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        raise CorruptPack(str(exc)) from exc


@dataclass(frozen=True, slots=True)
class Header:
    """Which pack a file says it is."""

    pack: PackId
    uuid: bytes  # of its store


def read_header(path: Path) -> Header | None:
    """Return what the header of a pack file says, None if it is damaged or is no pack's."""
    with path.open("rb") as file:
        head = file.read(_PACK_HEAD.size)
    if len(head) < _PACK_HEAD.size:
        return None
    magic, pack, uuid, check = _PACK_HEAD.unpack(head)
    if magic != _PACK_MAGIC or xxhash.xxh3_64_intdigest(head[:-8]) != check:
        return None
    return Header(PackId(pack), uuid)


class Packs:
    """The pack files of a store. Reads may come from any thread, writes from one at a time."""

    def __init__(
        self, folder: Path, uuid: bytes, space: Space | None = None, *, read_only: bool = False
    ) -> None:
        """Open the packs in a folder; `space` is asked before anything is appended."""
        self.folder = folder
        self._space = space
        self._size_max = KEY_MAX if space is None else space.reserve_bytes
        self._uuid = uuid
        self._files = Descriptors(folder, os.O_RDONLY if read_only else os.O_RDWR)
        self.deletes = DeferredDeletes(folder, self._files)
        self._tail: Tail | None = None
        self._next = PackId(1)
        self._unflushed: set[PackId] = set()
        self._unvouched: set[PackId] = set()
        self._folder_changed = False

    def open_at(self, tail: Tail | None, next_pack: PackId) -> None:
        """Go on writing at `tail`, the end of the newest pack that has room, if there is one."""
        self._tail = tail
        self._next = next_pack

    # -- reading

    def descriptor(self, pack: PackId) -> Descriptor:
        """Return the open file of a pack; it stays readable for as long as it is held.

        Raises:
            CorruptPack: there is no such file.
        """
        try:
            return self._files.get(pack_name(pack))
        except FileNotFoundError as exc:
            raise CorruptPack(f"pack {pack} is missing") from exc

    def read(self, pack: PackId, offset: int, size: int) -> bytes:
        """Return stored bytes.

        Raises:
            CorruptPack: the pack is missing or ends before.
        """
        file = self.descriptor(pack)
        # Before the read, which would first make room for whatever size a damaged record has.
        if (end := os.fstat(file.fd).st_size) < offset + size:
            raise CorruptPack(f"pack {pack} ends at {end}, inside a chunk")
        data = read_at(file, offset, size)
        if len(data) < size:
            raise CorruptPack(f"pack {pack} ends at {offset + len(data)}, inside a chunk")
        return data

    def entries(self, pack: PackId, stop: int) -> Iterator[Entry]:
        """Yield what the segment tables of a pack say, up to `stop`.

        Raises:
            CorruptPack: a header is damaged.
        """
        self.check_header(pack)
        offset = PAGE
        while offset < stop:
            segment = self.segment(pack, offset, stop)
            yield from segment.entries
            offset = segment.stop

    def segment(self, pack: PackId, start: int, stop: int) -> SegmentTable:
        """Return the table of the segment at `start`, in a pack that is vouched for up to `stop`.

        Raises:
            CorruptPack: it is damaged.
        """
        where = f"pack {pack}, segment at {start}"
        head = self.read(pack, start, HEAD.size)
        size, table_size = sizes_of(head, stop - start, where)
        table = self.read(pack, start + HEAD.size, table_size)
        return SegmentTable(pack, start + size, decode_table(head, table, where))

    def check_header(self, pack: PackId) -> None:
        """Check that the file is this store's pack of that number.

        Raises:
            CorruptPack: it is not.
        """
        if self.read(pack, 0, _PACK_HEAD.size) != self._header(pack):
            raise CorruptPack(f"pack {pack}: the file's header is damaged or another pack's")

    def numbers(self) -> set[PackId]:
        """Return the numbers of the pack files that are there."""
        found = (pack_number(path.name) for path in self.folder.iterdir())
        return {number for number in found if number is not None}

    # -- writing

    def append(self, segment: Segment) -> tuple[list[Entry], Tail]:
        """Write a segment. It is durable after the next `flush`.

        Returns:
            The chunks' places, in the order they were added, and the pack's new end.

        Raises:
            StoreFull: there is no room; nothing was written.
            OSError: nothing is there that the index would come to vouch for.
        """
        if self._space is not None:
            self._space.spend(segment.size_at_most + PAGE)
        tail = self._room_for(segment.size_at_most)
        entries, buffers, size = segment.laid_out(tail.stop)
        write_at(self._files.get(pack_name(tail.pack)), tail.stop, buffers)
        self._unflushed.add(tail.pack)
        self._unvouched.add(tail.pack)
        self._tail = Tail(tail.pack, tail.stop + size)
        return entries, self._tail

    def flush(self) -> None:
        """Make everything appended durable.

        Raises:
            OSError: it is not known what is durable; call `give_up`.
        """
        for pack in sorted(self._unflushed):
            sync(self._files.get(pack_name(pack)))
        if self._folder_changed:
            sync_folder(self.folder)
        self._folder_changed = False
        self._unflushed.clear()

    def published(self) -> None:
        """Note that the index now has everything appended so far."""
        self._unvouched.clear()

    def roll_back(self, tail: Tail | None) -> None:
        """Forget what was appended since the index vouched for `tail`, after an error."""
        unvouched, self._unvouched = sorted(self._unvouched), set()
        self._unflushed.clear()
        self._tail = tail
        for pack in unvouched:
            try:
                self._take_back(pack, tail)
            except OSError as exc:
                # What is left is written over, or goes when the store is next opened.
                log.warning("pack %d keeps what was given up: %s", pack, exc)

    def _take_back(self, pack: PackId, tail: Tail | None) -> None:
        if tail is not None and pack == tail.pack:
            os.ftruncate(self._files.get(pack_name(pack)).fd, tail.stop)
        else:
            self.remove(pack)

    def seal(self, pack: PackId) -> None:
        """Append nothing more to `pack`: let the next segment begin a new one."""
        if self._tail is not None and self._tail.pack == pack:
            self._tail = None

    def remove(self, pack: PackId) -> None:
        """Delete a pack that the committed index does not mention."""
        self.deletes.run([pack_name(pack)])

    def delete_after_commit(self, pack: PackId) -> None:
        """Let the next commit, which no longer mentions a pack, delete its file."""
        self.deletes.delete_after_commit(pack_name(pack))

    def holds(self, tail: Tail) -> bool:
        """Say whether a pack's file is there, at least up to `tail`."""
        try:
            return self.size(tail.pack) >= tail.stop
        except CorruptPack:
            return False

    def size(self, pack: PackId) -> int:
        """Return the length of a pack's file."""
        return os.fstat(self.descriptor(pack).fd).st_size

    def cut(self, tail: Tail) -> None:
        """Cut off what lies behind `tail`, which was never committed."""
        if self.size(tail.pack) > tail.stop:
            os.ftruncate(self.descriptor(tail.pack).fd, tail.stop)

    def close(self) -> None:
        self._files.clear()

    def _room_for(self, size: int) -> Tail:
        if self._tail is None or self._tail.stop + size > min(PACK_SIZE, self._size_max):
            # A number is not used again, since what failed may have left its file there.
            number, self._next = self._next, PackId(self._next + 1)
            self._tail = self._create(number)
        return self._tail

    def _create(self, pack: PackId) -> Tail:
        file = self._files.get(pack_name(pack), os.O_CREAT | os.O_EXCL)
        self._unflushed.add(pack)
        self._unvouched.add(pack)
        self._folder_changed = True
        write_at(file, 0, [self._header(pack).ljust(PAGE, b"\0")])
        return Tail(pack, PAGE)

    def _header(self, pack: PackId) -> bytes:
        head = _PACK_HEAD.pack(_PACK_MAGIC, pack, self._uuid, 0)[:-8]
        return head + xxhash.xxh3_64_intdigest(head).to_bytes(8, "little")
