"""Recovery: opening a store brings packs and staging files to the last commit.

The cost grows with the number of packs, staged files, and files that no commit mentions. Staged
bytes that the kernel has not written yet are synced, and no chunk is read. Chunk records are read
only if a pack has no row although its number was allocated: a crash during gc leaves such packs,
and so does damage.

Example. A process is killed between two commits. The index has pack 5 up to 20 MiB and staging file
5-0-1. On the disk pack 5 has 36 MiB, and there are also pack 6 and staging file 5-0-3. The next
open cuts pack 5 to 20 MiB and deletes the other two files. Pack 2 has 12 MiB by the index and 20
MiB on the disk, since gc was at it: it is cut, too, as no chunk record names a place behind 12 MiB.
"""

import contextlib
import logging

from modelfs.errors import CorruptIndex, CorruptPack
from modelfs.store.files.staging import Staging
from modelfs.store.index.chunk_records import Chunk, PackRow
from modelfs.store.index.counters import CUT_PACK, NEXT_PACK, Counters
from modelfs.store.index.index import Index
from modelfs.store.index.tables import PackId, Table, number_key, number_of
from modelfs.store.packs.pack import PACK_SIZE, Packs, Tail

log = logging.getLogger(__name__)


def load_staged(staging: Staging) -> None:
    """Load the staged state of all files as of the last commit."""
    for staged in staging.rows.states():
        staging.adopt(staged)
        staging.wholes.punch_gaps(staged)
        for file in {window.file for window in staged.windows.values()}:
            with contextlib.suppress(OSError):  # a missing file is an error of the first read
                file.reload()


def remove_uncommitted(index: Index, packs: Packs, staging: Staging) -> Tail | None:
    """Remove packs, ends of packs and staging files that the last commit does not mention.

    Returns:
        The end of the newest pack, where writing goes on; None: in a new pack.

    Raises:
        OSError: the last commit cannot be made durable, or a file cannot be removed.
    """
    # The commit before the last one may mention these files, so the last one must be durable first.
    # It is not if the process was killed while LMDB wrote its meta page.
    index.file.sync()
    for pack in packs.numbers() - _pack_rows(index).keys():
        if _may_be_needed(index, pack):
            log.error("pack %d has chunks, but no row: run `modelfs fsck --repair`", pack)
            continue
        log.info("removing pack %d, which was never committed", pack)
        packs.remove(pack)
    tail = committed_tail(index, packs)
    if tail is not None and not _is_end_of_segment(packs, tail):
        log.error("pack %d has no end at %d: run `modelfs fsck --repair`", tail.pack, tail.stop)
        tail = None
    if tail is not None:
        packs.truncate(tail)
    for pack, row in _pack_rows(index).items():
        if tail is None or pack != tail.pack:
            _cut_end(index, packs, Tail(pack, row.stop))
    for name in staging.unmentioned():
        staging.directory.unlink(name)
    return tail


def _cut_end(index: Index, packs: Packs, tail: Tail) -> None:
    """Cut off the end of an older pack, if gc was killed before it did that.

    A pack with a damaged row may end too early by that. So the end stays if a chunk may be there.
    """
    try:
        size = packs.size(tail.pack)
        if size <= tail.stop or not _is_end_of_segment(packs, tail):
            return
        for entry in packs.entries_from(tail.pack, tail.stop, size):
            value = index.get(Table.CHUNKS, number_key(entry.chunk))
            if value is not None and Chunk.from_bytes(value).place == (tail.pack, entry.offset):
                return
    except (CorruptPack, CorruptIndex, ValueError, OSError):
        return  # `modelfs fsck` lists the damage
    packs.truncate(tail)


def committed_tail(index: Index, packs: Packs) -> Tail | None:
    """Return the committed end of the newest pack, None if it is full, damaged, or was cut."""
    rows = _pack_rows(index)
    newest = max(rows, default=None)
    if newest is None or rows[newest].stop >= PACK_SIZE or _may_be_cut(index, newest):
        return None
    tail = Tail(newest, rows[newest].stop)
    if not packs.reaches(tail):
        log.error("pack %d is missing or cut short: `modelfs fsck` lists the damaged files", newest)
        return None
    return tail


def _may_be_cut(index: Index, pack: PackId) -> bool:
    """Whether gc may have cut a pack, or one after it: see `packs.cuts`."""
    try:
        return pack <= Counters(index).get(CUT_PACK)
    except CorruptIndex:
        return True


def _is_end_of_segment(packs: Packs, tail: Tail) -> bool:
    """Whether a pack's committed end is the end of a segment, so that the pack may be cut there.

    If not, the pack's row is damaged.
    """
    if packs.size(tail.pack) == tail.stop:
        return True  # nothing lies behind it: no need to read all segments' tables
    try:
        return all(True for _ in packs.entries(tail.pack, tail.stop))
    except (CorruptPack, ValueError):
        return False


def _may_be_needed(index: Index, pack: PackId) -> bool:
    """Whether a pack without a row may have bytes of a chunk.

    True also for lost chunks and damaged records, whose bytes a repair may find in the pack. A
    crash during gc leaves such packs too, so this walk over all chunk records is sometimes needed.
    """
    if pack >= Counters(index).get(NEXT_PACK):
        return False  # never committed
    damaged: set[bytes] = set()
    for _, value in index.pages(Table.CHUNKS, damaged=damaged):
        try:
            record = Chunk.from_bytes(value)
        except CorruptIndex:
            return True
        if record.pack == pack or record.is_lost:
            return True
    return bool(damaged)


def _pack_rows(index: Index) -> dict[PackId, PackRow]:
    return {
        PackId(number_of(key)): PackRow.from_bytes(value) for key, value in index.pages(Table.PACKS)
    }
