"""Repair after extents that are gone, or lead to a wrong chunk, without a trace of their own.

Theory of operation. The record of an inode has the bytes of its extents. If the map has fewer, each
hole of the file is suspicious: a missing extent beside a hole makes one longer hole. Suspicious
holes become lost, since a lost range must not be read as zeros. Of a hole longer than `HOLE_MAX`
only its ends become lost, where it borders on extents.

Records of formats 1 to 3 have no totals. But the record of a chunk counts the extents that lead to
it. If it counts more than the maps have, a row is gone, or leads to another chunk, which then has
one use too many. The file is unknown, so the holes of all files are suspicious.

A page of extents that the disk lost a write of has older extents, in good order. Then some chunks
have fewer uses than their records count, and others more; or a map has more bytes than its inode's
record. Nothing shows which of the uses are the old ones. So all *contradicted* ranges become lost:
those of the chunks with too many uses, or, if there is no such chunk in a map that is too long, the
whole map.

The stored bytes of the chunk are still good. A file in `/lost+found` gets them, or gc would remove
them.

Example. A file has an extent of chunk 7 at 0 to 1000, and a hole up to its end, 3,000. The row of
the extent is gone. The record of chunk 7 counts one use of 1,000 bytes, and the maps have none.
The file reads as an error up to 3,000, and `/lost+found/inode-9` has the bytes of chunk 7.

If the extent leads to chunk 8 instead, chunk 8 has one use more than its record counts. The file,
and each other one that uses chunk 8, reads as an error there, and `/lost+found/inode-9` has the
bytes of both chunks.
"""

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from typing import Final

from modelfs.jobs.check.view import CheckView
from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.inodes import make_missing
from modelfs.jobs.repair.names import adopt
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent, Inode
from modelfs.store.index.tables import ChunkId, InodeNumber, Table, numbers_of

# The longest hole that becomes lost as a whole; a lost range costs a row for each chunk's size.
HOLE_MAX: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class CountedExtents:
    """The extents of all maps, compared with the counts of chunks and inodes."""

    # Bytes of extents, by chunk: those that no map has, and those that no record counts.
    missing: Mapping[ChunkId, int]
    surplus: Mapping[ChunkId, int]
    contradicted: Mapping[InodeNumber, RangeSet]  # ranges of files


def count_extents(context: RepairContext) -> CountedExtents:
    """Compare extents with the counts of them, before chunks with such counts are removed."""
    view = context.view()
    contradicted: dict[InodeNumber, RangeSet] = {}
    for inode, pairs in groupby(view.extents(), key=itemgetter(0)):
        extents = [extent for _, extent in pairs]
        if doubtful := _contradicted(context, view, context.node(inode), extents):
            contradicted[inode] = RangeSet((extent.start, extent.stop) for extent in doubtful)
    return CountedExtents(view.missing, view.surplus, contradicted)


def _contradicted(
    context: RepairContext, view: CheckView, node: Inode | None, extents: list[Extent]
) -> list[Extent]:
    """Return the extents of a file that its record, or those of its chunks, contradict."""
    mapped = sum(extent.length for extent in extents)
    # A record of 0 bytes may be one that this round has made.
    has_more = context.has_totals and node is not None and 0 < node.mapped < mapped
    if has_more:
        chunks = (context.store.chunks.find(extent.chunk) for extent in extents)
        # Ranges that this round has lost are no more than the record has.
        has_more = not any(chunk is not None and chunk.is_lost for chunk in chunks)
    if not has_more and not view.missing:
        return []  # the chunk's record may be the older one
    doubtful = [extent for extent in extents if extent.chunk in view.surplus]
    return doubtful if doubtful or not has_more else extents


def suspicious_holes(
    context: RepairContext,
    counted: CountedExtents,
    maps: Mapping[int, list[Extent]],
    gaps: Mapping[int, RangeSet],
) -> Iterator[tuple[int, int, int]]:
    """Yield inode, start and stop of holes, or of their ends, that may be missing extents.

    Extents with damaged rows do not count as missing, also behind the end of their file: their
    ranges, `gaps`, are lost already.

    Args:
        context: of the round.
        counted: the extents before the maps are repaired.
        maps: the extents of each file.
        gaps: the ranges of each file whose extents have damaged rows.
    """
    missing = _missing_by_file(context, maps)
    left = 0 if context.has_totals else _unexplained_bytes(context, counted, maps, gaps)
    for inode, start, stop in context.view().holes() if missing or left > 0 else ():
        most = min(missing.get(inode, 0) if context.has_totals else left, HOLE_MAX)
        if not most:
            continue
        hole = RangeSet([(start, stop)])
        if stop - start > HOLE_MAX:
            hole.remove(start + most, stop - most)
        for gap in gaps.get(inode, ()):
            hole.remove(*gap)
        yield from ((inode, low, high) for low, high in hole)


def _missing_by_file(context: RepairContext, maps: Mapping[int, list[Extent]]) -> dict[int, int]:
    """Return the bytes that each map has less than its record counts; none without totals.

    Of a file whose record is lost, any number of bytes may be missing.
    """
    if not context.has_totals:
        return {}
    missing = dict.fromkeys(numbers_of(context.reported.broken[Table.INODES]), HOLE_MAX)
    for node in context.view().inodes():
        mapped = sum(extent.length for extent in maps.get(node.inode, ()))
        if mapped < node.mapped:
            missing[node.inode] = node.mapped - mapped
    return missing


def _unexplained_bytes(
    context: RepairContext,
    counted: CountedExtents,
    maps: Mapping[int, list[Extent]],
    gaps: Mapping[int, RangeSet],
) -> int:
    """Return the bytes of missing extents without those that no hole is in the place of.

    An extent that leads to a chunk with too many uses, to no chunk that ever existed, or past the
    end of one, may be one that another chunk misses. An extent of a chunk without a record is right
    if a hash leads to the chunk, or its record did not decode.
    """
    missing = sum(counted.missing.values()) - sum(counted.surplus.values())
    missing -= sum(gap.size for gap in gaps.values())
    if missing <= 0:
        return missing
    existed = {*numbers_of(context.reported.broken[Table.CHUNKS])}
    existed.update(chunk for _, chunks in context.rows(Table.HASHES) for chunk in chunks)
    for extent in chain.from_iterable(maps.values()):
        if (record := context.store.chunks.find(extent.chunk)) is None:
            is_wrong = extent.chunk not in existed
        else:
            is_wrong = extent.skip + extent.length > record.size
        missing -= extent.length if is_wrong else 0
    return missing


def keep_unmapped_chunks(context: RepairContext, counted: CountedExtents) -> None:
    """Give the chunks that no map has, though their records count uses, to a new file."""
    used = context.view().references.extents
    kept: list[Extent] = []
    size = 0
    for number in sorted(counted.missing.keys() | counted.surplus):
        chunk = ChunkId(number)
        record = context.store.chunks.find(chunk)
        if record is not None and not record.is_lost and chunk not in used:
            kept.append(Extent(size, chunk, 0, record.size))
            size += record.size
    if kept:
        inode = context.new_inode()
        for extent in kept:
            context.put_extent(inode, extent)
        make_missing(context, inode, stat.S_IFREG | 0o600, size)
        path = adopt(context, inode)
        message = f"{len(kept)} chunks that no file has any more are in a file of their own"
        context.quarantined(message, (path,))
