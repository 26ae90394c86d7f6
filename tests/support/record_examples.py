"""One record of each kind, and the names of their pinned forms."""

import stat
from typing import Any

from modelfs.codecs.base import CodecId
from modelfs.formats.layout import Format
from modelfs.store.index.chunk_records import Chunk, ChunkKind, PackRow
from modelfs.store.index.name_records import Dentry, Listed
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent, Inode, WindowRanges
from modelfs.store.index.superblock import Superblock
from modelfs.store.index.tables import ChunkId, InodeNumber, PackId
from modelfs.store.index.tensor_records import TensorRow

# One of each, with a different number in every field.
EXAMPLES: dict[str, Any] = {
    "superblock": Superblock(1, 1 << 20, 0x1122334455667788, bytes(range(16)), 1_700_000_000_000),
    "inode": Inode(
        inode=InodeNumber(7),
        mode=stat.S_IFREG | 0o4755,
        uid=1000,
        gid=1001,
        nlink=3,
        size=1 << 40,
        rdev=0x801,
        atime_ns=-1,
        mtime_ns=1_700_000_000_123_456_789,
        ctime_ns=1_700_000_001_123_456_789,
        parent=InodeNumber(5),
        format=Format.ONNX_DATA,
        staging_rows=6,
        mapped=1 << 39,
        xattr_rows=2,
        tensor_rows=300,
    ),
    "dentry": Dentry(InodeNumber(7), 9),
    "listed": Listed(InodeNumber(7), b"model.safetensors"),
    "extent": Extent(7, ChunkId(11), 13, 17),
    "chunk": Chunk(
        kind=ChunkKind.CODED,
        codec=CodecId.ZSTD,
        size=1 << 20,
        pack=PackId(3),
        offset=4096,
        stored=1234,
        refs=2,
        ref_bytes=(1 << 20) + 5,
        checksum=0x8877665544332211,
        digest=bytes(range(16, 32)),
        dependants=3,
        content_checksum=0x1020304050607080,
        optimized=True,
        element=5,
    ),
    "pack": PackRow(256 << 20, 200 << 20),
    "window": WindowRanges(5, RangeSet([(0, 10), (4096, 8192)])),
    "tensor": TensorRow(7, 24, "BF16", (3, 4), "layer.0.wéight"),
}
# The newest form of records that had another one in format 1.
NEWEST: dict[str, str] = {"chunk": "chunk2", "lost": "lost2", "inode": "inode4"}
