"""The superblock: the identity of a store, and the version of its format."""

import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from modelfs.errors import CorruptIndex

# The superblock's key in the table `meta`.
SUPERBLOCK: Final = b"superblock"
# Format 1 had no derived chunks and no content checksums, format 2 no factored chunks, format 3 no
# record of staged bytes that the disk has lost, no checksums of rows, and no totals in inodes.
FORMAT_VERSION = 4
CHUNK_SIZE_MIN: Final = 4096
CHUNK_SIZE_MAX: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Superblock:
    """The identity of a store.

    Written by mkfs, and once more by an upgrade of the format and by a repair after its loss.

    Value layout, 40 bytes::

        offset  type      field
        0       u32       version    format version of the whole store
        4       u32       chunk_size bytes; the grid that long tensors are cut on
        8       u64       hash_seed  seed of every XXH3-128 content hash
        16      bytes 16  uuid
        32      i64       created_ns
    """

    version: int
    chunk_size: int
    hash_seed: int
    uuid: bytes
    created_ns: int

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIQ16sq")

    def to_bytes(self) -> bytes:
        return self.LAYOUT.pack(
            self.version, self.chunk_size, self.hash_seed, self.uuid, self.created_ns
        )

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        """Decode the superblock.

        Raises:
            CorruptIndex: wrong length, or a chunk size that no store has.
        """
        try:
            block = cls(*cls.LAYOUT.unpack(value))
        except struct.error as exc:
            raise CorruptIndex(f"superblock {value.hex()}: {exc}") from exc
        if not CHUNK_SIZE_MIN <= block.chunk_size <= CHUNK_SIZE_MAX:
            raise CorruptIndex(f"superblock: chunk size {block.chunk_size}")
        return block
