"""Checksums of staged bytes, for the time between two sessions of a store.

Theory of operation. Staged bytes become chunks, with checksums, within seconds. But if a store is
unmounted before that, they lie on the disk until it is mounted again. So when a store is closed in
order, the index gets a checksum of the bytes of each window: a number in `meta` that has the key of
the window's row in its name, the generation times 2^64 plus the XXH3-64 of the bytes of all ranges.
The next process that opens the store for writing compares them, and removes the checksums with a
commit of its own before any byte can change: after a crash a window may have newer bytes than its
row, and nothing would be wrong. Bytes that do not match are *lost*, as those of a failed write-back
are (see `window_file`).

At most `BYTES_MAX` are read at the end and at the beginning of a session; windows beyond that have
no checksum. fsck and readers compare those of a store that is not mounted.

Example. A program writes 5 MiB and the store is unmounted at once. The index has a checksum of the
5 MiB. A bit flips on the disk. At the next mount the 5 MiB are lost: reads fail, `fsck` and `stats`
list the file, and writing it again heals it.
"""

import os
from typing import Final

from xxhash import xxh3_64

from modelfs.errors import CorruptIndex, StoreNotTrusted
from modelfs.store.directory import Directory
from modelfs.store.files.staged_file import WINDOW, window_name
from modelfs.store.index.counters import STAGED_CHECKSUM, Counters
from modelfs.store.index.index import Index
from modelfs.store.index.records import WindowRanges
from modelfs.store.index.tables import Table, pair_of, prefix_end

# About one second of reading.
BYTES_MAX: Final = 1 << 30
_READ_BYTES: Final = 1 << 20
_BITS: Final = 64


def windows_with_checksums(index: Index) -> list[bytes]:
    """Return the keys, in the table of staged windows, of those that have checksums."""
    start = STAGED_CHECKSUM
    rows = index.keys(Table.META, start, prefix_end(start))
    return [name.removeprefix(start) for name in rows]


def put_checksum(index: Index, key: bytes, row: WindowRanges, checksum: int) -> None:
    """Record the checksum of a window. Inside a change."""
    Counters(index).set(STAGED_CHECKSUM + key, row.generation << _BITS | checksum)


def remove_checksum(index: Index, key: bytes) -> None:
    """Remove the checksum of a window, if it has one. Inside a change."""
    index.delete(Table.META, STAGED_CHECKSUM + key)


def has_checksum(index: Index, key: bytes, row: WindowRanges) -> bool:
    """Whether a window has a checksum. A part of its bytes alone cannot be compared with it."""
    try:
        return Counters(index).get(STAGED_CHECKSUM + key) >> _BITS == row.generation
    except CorruptIndex:
        return False


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
    start = number * WINDOW
    hasher = xxh3_64()
    with staging.opened(window_name(inode, number, row.generation), os.O_RDONLY) as fd:
        for low, high in row.ranges:
            for at in range(low, high, _READ_BYTES):
                hasher.update(os.pread(fd, min(_READ_BYTES, high - at), at - start))
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
