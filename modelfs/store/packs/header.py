"""The file of a pack: its name, and the header that it begins with.

Both have the number of the pack, and the header has the UUID of the store. So a file that was
renamed, or copied from another store, is noticed before its bytes are taken for a chunk.

Pack file, little-endian::

    offset  type      field
    0       bytes 8   magic    "MDLPACK1"
    8       u64       pack     its number, as in the file name
    16      bytes 16  uuid     of the store
    32      u64       check    XXH3-64 of bytes 0 to 32
    40      -         zero up to 4,096
    4096    segments, each at a multiple of 4,096: see `packs.segment`
"""

import os
import struct
from dataclasses import dataclass
from typing import Final, Self

import xxhash

from modelfs.store.disk.directory import Directory
from modelfs.store.index.tables import PackId

MAGIC: Final = b"MDLPACK1"
LAYOUT: Final = struct.Struct("<8sQ16sQ")


def pack_name(pack: int) -> str:
    return f"{pack:08d}.pack"


def pack_number(name: str) -> PackId | None:
    """Return the number of the pack whose file has this name, None if no pack has it."""
    stem = name.removesuffix(".pack")
    # `isdecimal` is not enough: it accepts digits of other scripts, and names such as 1.pack.
    if not stem.isdecimal() or pack_name(int(stem)) != name:
        return None
    return PackId(int(stem))


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a pack file."""

    pack: PackId
    uuid: bytes  # of its store

    def to_bytes(self) -> bytes:
        head = LAYOUT.pack(MAGIC, self.pack, self.uuid, 0)[:-8]
        return head + xxhash.xxh3_64_intdigest(head).to_bytes(8, "little")

    @classmethod
    def from_bytes(cls, head: bytes) -> Self | None:
        """Decode the first bytes of a file, None if they are damaged or no pack's."""
        if len(head) < LAYOUT.size:
            return None
        magic, pack, uuid, check = LAYOUT.unpack(head)
        if magic != MAGIC or xxhash.xxh3_64_intdigest(head[:-8]) != check:
            return None
        return cls(PackId(pack), uuid)


def read_header(folder: Directory, name: str) -> Header | None:
    """Return the header of a pack file, None if it is damaged or the file is no pack."""
    with folder.opened(name, os.O_RDONLY) as fd:
        return Header.from_bytes(os.pread(fd, LAYOUT.size, 0))
