"""Lost ranges of files: they are mapped to a lost chunk, and reported.

A range whose bytes are lost must not be read as zeros, nor as older bytes. Mapped to a lost chunk,
it makes reads fail until it is written again.

Example. The bytes of a file from 1,000 to 2,000 are lost, and its extents are at 0 and 1500::

    before    0 to 1500: chunk 3                            1500 to 3000: chunk 4
    after     0 to 1000: chunk 3, 1000 to 2000: lost chunk, 2000 to 3000: chunk 4
"""

from modelfs.jobs.repair.context import RepairContext
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import SIZE_MAX, Inode
from modelfs.store.index.tables import Table, number_key, number_of, pair_key


def trim_of(context: RepairContext, node: Inode) -> int | None:
    value = context.index.get(Table.TRIMS, number_key(node.inode))
    return None if value is None else number_of(value)


def lose_ranges(context: RepairContext, node: Inode, lost: RangeSet, why: str) -> None:
    """Map ranges of a file to the lost chunk, and report them."""
    lost.remove(node.size, SIZE_MAX)
    if not lost:
        return
    if (trim := trim_of(context, node)) is not None:
        # Finish the truncation under way, which would remove lost extents behind its size.
        for extent in list(context.store.maps.overlapping(node.inode, trim, SIZE_MAX)):
            context.index.delete(Table.EXTENTS, pair_key(node.inode, extent.start))
            if extent.start < trim:
                context.put_extent(node.inode, extent.part(extent.start, trim))
        context.index.delete(Table.TRIMS, number_key(node.inode))
    tensors: dict[str, None] = {}
    for start, stop in lost:
        tensors |= dict.fromkeys(context.view().tensors(node.inode, start, stop))
        context.lose(node.inode, start, stop)
    message = f"inode {node.inode}: {lost.size} bytes are lost, {why}"
    context.quarantined(message, (context.path(node.inode),), tensors)
