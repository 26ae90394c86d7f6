"""Staged bytes at rest: the checksums that they have between two sessions of a store.

Theory of operation. Staged bytes become chunks, with checksums, within seconds. But if a store is
unmounted before that, they lie on the disk until it is mounted again. So when a store is closed in
order, the index gets a checksum of the bytes of each window (see `staged_checksums`). The next
process that opens the store for writing compares them, and removes the checksums with a commit of
its own before any byte can change: after a crash a window may have newer bytes than its row, and
nothing would be wrong. Bytes that do not match are *lost*, as those of a failed write-back are (see
`window_file`).

At most `BYTES_MAX` are read at the end and at the beginning of a session; windows beyond that have
no checksum.

Example. A program writes 5 MiB and the store is unmounted at once. The index has a checksum of the
5 MiB. A bit flips on the disk. At the next mount the 5 MiB are lost: reads fail, `fsck` and `stats`
list the file, and writing it again heals it.
"""

import contextlib
import logging
from itertools import groupby
from typing import Final

from modelfs.errors import CorruptIndex, StoreNotTrusted
from modelfs.store.files.staged_checksums import (
    checksum_of,
    is_intact,
    put_checksum,
    remove_checksums_of,
    windows_with_checksums,
)
from modelfs.store.files.staging import Staging
from modelfs.store.files.whole_file import WholeFile
from modelfs.store.files.window import Window
from modelfs.store.index.index import Index
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import WindowRanges
from modelfs.store.index.tables import InodeNumber, Table, number_of, pair_key, pair_of

log = logging.getLogger(__name__)

# About one second of reading.
BYTES_MAX: Final = 1 << 30


def compare_checksums(index: Index, staging: Staging) -> None:
    """Compare the loaded windows with their checksums, and note the bytes that are lost."""
    for key in windows_with_checksums(index):
        if (found := _loaded(index, staging, key)) is None:
            continue
        row, window = found
        if not is_intact(index, staging.directory, key, row):
            log.error("staged bytes of inode %d do not match their checksum", number_of(key))
            window.file.lose(row.ranges.shifted(-window.origin))


def remove_checksums(index: Index, staging: Staging) -> None:
    """Remove the checksums from the index, and record the bytes that are lost. For the owner.

    The caller commits that before any byte changes.
    """
    keys = windows_with_checksums(index)
    with index.change() if keys else contextlib.nullcontext():
        for inode, of_inode in groupby(keys, number_of):
            remove_checksums_of(index, InodeNumber(inode), [*of_inode])
        for key in keys:
            found = _loaded(index, staging, key)
            if found is not None and found[1].lost():
                staging.rows.record(InodeNumber(number_of(key)), found[1], RangeSet())


def add_checksums(index: Index, staging: Staging) -> None:
    """Record checksums of windows, all of whose bytes are durable and will not change."""
    left = BYTES_MAX
    keys = [
        pair_key(staged.inode, number) for staged in staging for number in sorted(staged.windows)
    ]
    with index.change() if keys else contextlib.nullcontext():
        for key in keys:
            if (found := _loaded(index, staging, key)) is None or found[1].lost():
                continue
            row, window = found
            if isinstance(window.file, WholeFile) and window.file.live:
                continue
            left -= row.ranges.size
            # Without a checksum it is as after a crash.
            with contextlib.suppress(OSError, StoreNotTrusted):
                if left >= 0:
                    value = checksum_of(staging.directory, key, row)
                    put_checksum(index, key, row, value)


def _loaded(index: Index, staging: Staging, key: bytes) -> tuple[WindowRanges, Window] | None:
    """Return the row of a window and the window, if it is loaded and the row is of it."""
    try:
        inode, number = pair_of(key)
        value = index.get(Table.STAGED, key)
        row = None if value is None else WindowRanges.from_bytes(value)
    except CorruptIndex:
        return None
    staged = staging.find(InodeNumber(inode))
    window = None if staged is None else staged.windows.get(number)
    if row is None or window is None or row.generation != window.generation:
        return None
    return row, window
