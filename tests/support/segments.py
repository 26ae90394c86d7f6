"""Segments of plain chunks."""

from modelfs.codecs.base import CodecId
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.tables import ChunkId
from modelfs.store.packs.segment import Segment


def segment_of(*contents: bytes, first: int = 1) -> Segment:
    """Return a segment of plain chunks with these contents, and numbers from `first` on."""
    segment = Segment()
    for number, content in enumerate(contents, first):
        segment.add(ChunkId(number), ChunkKind.PLAIN, CodecId.RAW, len(content), content)
    return segment
