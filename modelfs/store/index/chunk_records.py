"""The records of chunks and packs: fixed little-endian layouts, as in `records`.

Decoding validates: bytes that no modelfs can have written raise `CorruptIndex`.
"""

import dataclasses
import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptIndex
from modelfs.store.index.tables import PackId, checked_number

# Above every offset in a pack.
OFFSET_END: Final = 1 << 62
# The digest of a lost chunk whose digest was lost, too.
UNKNOWN: Final = bytes(16)


class ChunkKind(enum.IntEnum):
    """How a chunk's content is made from its stored bytes. Stored: never renumber."""

    PLAIN = 0
    CODED = 1
    LOST = 2  # its stored bytes are gone: reads fail until a good copy is written
    DERIVED = 3  # from other chunks: the stored bytes are a `Recipe`


@dataclass(frozen=True, slots=True)
class Chunk:
    """The place and form of a chunk's bytes, and the number of its uses.

    A lost chunk lies in no pack: its pack, offset and stored are zero. Size, codec, checksum and
    digest are still those of its content; by them a good copy is recognised, and stored in the same
    form. If they were lost as well, the digest is zero and no row of `hashes` has the chunk: reads
    of the extents and recipes that refer to it fail.

    A chunk is alive while extents or other chunks' recipes need it. One that only recipes need is
    *base-only*: it stays until those chunks are re-encoded without it.

    Value layout, 80 bytes (format 1: the first 72)::

        offset  type      field
        0       u8        kind              `ChunkKind`
        1       u8        codec             `CodecId` of the stored bytes, or of the derivation
        2       u8        optimized         1: the optimizer has looked for its smallest form
        3       u8        element           code of the `Element` it was optimized as, or 0
        4       u32       size              bytes after decoding
        8       u64       pack
        16      u64       offset            of the stored bytes, from the start of the pack
        24      u32       stored            bytes in the pack
        28      u32       refs              extents that point here
        32      u64       ref_bytes         sum of those extents' lengths
        40      u64       checksum          XXH3-64 of the stored bytes
        48      bytes 16  digest            XXH3-128 of the decoded bytes, the store's seed
        64      u32       dependants        chunks that derive from it
        68      -         zero
        72      u64       content_checksum  XXH3-64 of the decoded bytes; 0: not known
    """

    kind: ChunkKind
    codec: CodecId
    size: int
    pack: PackId
    offset: int
    stored: int
    refs: int
    ref_bytes: int
    checksum: int
    digest: bytes
    dependants: int = 0
    content_checksum: int = 0
    optimized: bool = False
    element: int = 0

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<BBBBIQQIIQQ16sI4xQ")
    LENGTH_1: ClassVar[int] = 72

    def to_bytes(self) -> bytes:
        return self.LAYOUT.pack(
            self.kind,
            self.codec,
            self.optimized,
            self.element,
            self.size,
            self.pack,
            self.offset,
            self.stored,
            self.refs,
            self.ref_bytes,
            self.checksum,
            self.digest,
            self.dependants,
            self.content_checksum,
        )

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        """Decode an index value.

        Raises:
            CorruptIndex: wrong length, or a kind or codec number that was never assigned.
        """
        full = value + bytes(8) if len(value) == cls.LENGTH_1 else value
        try:
            kind, codec, optimized, element, *rest = cls.LAYOUT.unpack(full)
            size, pack, offset, stored, *counts = rest
            refs, ref_bytes, checksum, digest, dependants, content_checksum = counts
            record = cls(
                ChunkKind(kind),
                CodecId(codec),
                size,
                PackId(pack),
                offset,
                stored,
                refs,
                ref_bytes,
                checksum,
                digest,
                dependants,
                content_checksum,
                optimized == 1,
                element,
            )
        except (struct.error, ValueError) as exc:
            raise CorruptIndex(f"chunk {value.hex()}: {exc}") from exc
        if offset >= OFFSET_END or optimized > 1:
            raise CorruptIndex(f"chunk {value.hex()}: it lies at {offset}")
        return record

    @classmethod
    def from_row(cls, key: bytes, value: bytes) -> Self:
        """Decode a row of the table `chunks`.

        Raises:
            CorruptIndex: no chunk has that key, or see `from_bytes`.
        """
        checked_number(key)
        return cls.from_bytes(value)

    @property
    def form(self) -> str:
        """The name under which `stats` counts the chunk."""
        plain = self.kind in (ChunkKind.PLAIN, ChunkKind.LOST)
        return self.kind.name.lower() if plain else self.codec.name.lower()

    @property
    def alive(self) -> bool:
        return self.refs > 0 or self.dependants > 0

    @property
    def base_only(self) -> bool:
        """Whether only other chunks' recipes need the chunk."""
        return not self.refs and self.dependants > 0

    @property
    def place(self) -> tuple[PackId, int]:
        """The pack of the stored bytes, and their offset in it. No two chunks share a place."""
        return self.pack, self.offset

    @property
    def is_lost(self) -> bool:
        return self.kind is ChunkKind.LOST

    def as_lost(self) -> Self:
        """Return the record that is left when the stored bytes are gone."""
        return dataclasses.replace(self, kind=ChunkKind.LOST, pack=PackId(0), offset=0, stored=0)


@dataclass(frozen=True, slots=True)
class PackRow:
    """The committed end of a pack, and the bytes of its live chunks.

    Value layout, 24 bytes: u64 stop (bytes of the file that are durable and accounted for),
    u64 live (stored bytes of chunks in it), u64 zero.
    """

    stop: int
    live: int

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QQ8x")

    def to_bytes(self) -> bytes:
        return self.LAYOUT.pack(self.stop, self.live)

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        try:
            return cls(*cls.LAYOUT.unpack(value))
        except struct.error as exc:
            raise CorruptIndex(f"pack row {value.hex()}: {exc}") from exc

    @classmethod
    def from_row(cls, key: bytes, value: bytes) -> Self:
        """Decode a row of the table `packs`.

        Raises:
            CorruptIndex: no pack has that key, wrong length, or no pack ends there.
        """
        checked_number(key)
        row = cls.from_bytes(value)
        if row.stop >= OFFSET_END:
            raise CorruptIndex(f"pack row {value.hex()}")
        return row
