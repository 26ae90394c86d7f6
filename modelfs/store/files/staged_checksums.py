"""The checksum of the staged bytes of a window, in the index of a store that is not mounted.

It is a number in `meta` that has the key of the window's row in its name: the generation times 2^64
plus the XXH3-64 of the bytes of all ranges. `staged_at_rest` adds it at the end of a session, and
compares it at the beginning of the next one; in between fsck and readers compare it.

The total of staging rows in the inode's record counts it (see `inode_totals`), so that it is missed
if the disk has an older page without it.

Example. Window 1 of inode 5 has 10 bytes at 70 MiB, in the file 5-1-2. The number of generation 2
is 2 * 2^64 + XXH3-64 of the 10 bytes.
"""

import os
from collections.abc import Collection
from typing import Final

from xxhash import xxh3_64

from modelfs.errors import CorruptIndex, StoreNotTrusted
from modelfs.store.disk.directory import Directory
from modelfs.store.files.inode_totals import add_to_totals
from modelfs.store.files.window import is_whole, origin_of, window_name
from modelfs.store.index.counters import STAGED_CHECKSUM, Counters, windows_of_checksums
from modelfs.store.index.index import Index
from modelfs.store.index.records import Inode, WindowRanges
from modelfs.store.index.tables import (
    InodeNumber,
    Table,
    number_key,
    number_of,
    pair_key,
    pair_of,
    prefix_end,
)

_READ_BYTES: Final = 1 << 20
_BITS: Final = 64


def windows_with_checksums(index: Index, inode: InodeNumber | None = None) -> list[bytes]:
    """Return the keys, in the table of staged windows, of those of an inode that have checksums.

    None: of all inodes.
    """
    start = STAGED_CHECKSUM + (b"" if inode is None else number_key(inode))
    return [*windows_of_checksums(index.keys(Table.META, start, prefix_end(start)))]


def put_checksum(index: Index, key: bytes, row: WindowRanges, checksum: int) -> None:
    """Record the checksum of a window. Inside a change."""
    name = STAGED_CHECKSUM + key
    is_new = not index.has(Table.META, name)
    Counters(index).set(name, row.generation << _BITS | checksum)
    add_to_totals(index, InodeNumber(number_of(key)), staging_rows=int(is_new))


def remove_checksum(index: Index, key: bytes) -> None:
    """Remove the checksum of a window, if it has one. Inside a change."""
    if index.has(Table.META, STAGED_CHECKSUM + key):
        remove_checksums_of(index, InodeNumber(number_of(key)), [key])


def remove_checksums_of(index: Index, inode: InodeNumber, keys: Collection[bytes]) -> None:
    """Remove the checksums of windows of an inode. Inside a change."""
    for key in keys:
        index.delete(Table.META, STAGED_CHECKSUM + key)
    # Before 0.2.0 was released, there were stores whose totals do not count checksums.
    bounds = pair_key(inode, 0), pair_key(inode + 1, 0)
    others = sum(1 for table in (Table.STAGED, Table.LOST) for _ in index.keys(table, *bounds))
    others += index.has(Table.TRIMS, number_key(inode))
    if (value := index.get(Table.INODES, number_key(inode))) is not None:
        counted = max(0, Inode.from_bytes(inode, value).staging_rows - others)
        add_to_totals(index, inode, staging_rows=-min(counted, len(keys)))


def has_checksum(index: Index, key: bytes, row: WindowRanges) -> bool:
    """Whether a window has a checksum. A part of its bytes alone cannot be compared with it."""
    try:
        return Counters(index).get(STAGED_CHECKSUM + key) >> _BITS == row.generation
    except CorruptIndex:
        return False


def may_be_shorter(index: Index, key: bytes, row: WindowRanges) -> bool:
    """Whether the file of a window may end inside the ranges of its row, without damage.

    The kernel cuts a whole file at once, and its row follows. Not if the store was closed in order.
    """
    return is_whole(row.generation) and not has_checksum(index, key, row)


def checksum_of(staging: Directory, key: bytes, row: WindowRanges) -> int:
    """Return the checksum of the staged bytes of a window, as far as the file has them.

    Args:
        staging: the folder of the staging files.
        key: of the window's row.
        row: of the window.

    Raises:
        StoreNotTrusted: the file is not a regular file of the store's owner.
        OSError: the file cannot be opened or read.
    """
    inode, number = pair_of(key)
    origin = origin_of(number, row.generation)
    hasher = xxh3_64()
    with staging.opened(window_name(inode, number, row.generation), os.O_RDONLY) as fd:
        for low, high in row.ranges:
            for at in range(low, high, _READ_BYTES):
                hasher.update(os.pread(fd, min(_READ_BYTES, high - at), at - origin))
    return hasher.intdigest()


def is_intact(index: Index, staging: Directory, key: bytes, row: WindowRanges) -> bool:
    """Whether the bytes of a window match their checksum; True if there is none.

    A file that is missing or cannot be read is an error of the read that needs it.
    """
    if not has_checksum(index, key, row):
        return True
    wanted = Counters(index).get(STAGED_CHECKSUM + key) & (1 << _BITS) - 1
    try:
        return checksum_of(staging, key, row) == wanted
    except (OSError, StoreNotTrusted):
        return True
