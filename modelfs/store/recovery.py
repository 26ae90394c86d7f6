"""What opening a store does after a crash: it brings everything to the last commit.

It costs as much as there are packs, staged files and files that no commit mentions. The store's
content is not looked at, and its chunk records only if a pack has no row though its number was
handed out: a crash during gc leaves such packs, and so does damage.
"""

import logging

from modelfs.errors import CorruptIndex, CorruptPack, NotFound
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.files.staging import Staging
from modelfs.store.index.counters import NEXT_PACK, Counters
from modelfs.store.index.index import Index
from modelfs.store.index.records import Chunk, PackRow
from modelfs.store.index.tables import PackId, Table, number_of
from modelfs.store.packs.pack import PACK_SIZE, Packs, Tail

log = logging.getLogger(__name__)


def load_staged(staging: Staging, inodes: Inodes) -> None:
    """Take over the staged files that the last commit mentions."""
    newest = 0
    for inode, windows, visible in staging.recorded():
        try:
            node = inodes.get(inode)
        except (NotFound, CorruptIndex) as exc:
            log.error("staged content of inode %d cannot be read: %s", inode, exc)
            staging.damaged = True
            continue
        staged = StagedFile(
            inode,
            node.size,
            node.mtime_ns,
            node.ctime_ns,
            size_floor=node.size,
            map_visible_to=visible,
            windows=windows,
            dirty=bool(windows),
        )
        staging.adopt(staged)
        for window in windows.values():
            newest = max(newest, window.generation)
            # A process that was killed may have rewritten bytes that no fsync covered since. They
            # are read now, and so the next fsync has to make them durable.
            window.dirty = True
            if window.ranges.stop > node.size:
                # Cut off by a truncation that the inode record admits, but the row does not.
                window.ranges.remove(node.size, window.ranges.stop)
    staging.start_generations_at(newest)


def remove_uncommitted(index: Index, packs: Packs, staging: Staging) -> None:
    """Remove what no commit mentions: tails of packs, packs, staging files."""
    # What is removed here may be what the commit before mentions. So the last one has to be durable
    # first, which it is not if the process was killed while LMDB wrote its meta page.
    index.sync()
    for pack in packs.numbers() - _pack_rows(index).keys():
        if _is_needed(index, pack):
            log.error("pack %d has no row, but chunks in it: run `modelfs fsck --repair`", pack)
            continue
        log.info("removing pack %d, which was never committed", pack)
        packs.remove(pack)
    tail = committed_tail(index, packs)
    if tail is not None and not _is_end_of_segment(packs, tail):
        log.error("pack %d does not end at %d: run `modelfs fsck --repair`", tail.pack, tail.stop)
        tail = None
    if tail is not None:
        packs.truncate(tail)
    for name in staging.unmentioned():
        (staging.folder / name).unlink()
    packs.open_at(tail, PackId(Counters(index).get(NEXT_PACK)))


def committed_tail(index: Index, packs: Packs) -> Tail | None:
    """Return the end of the newest pack as committed, None if nothing may be appended to it."""
    rows = _pack_rows(index)
    newest = max(rows, default=None)
    if newest is None or rows[newest].stop >= PACK_SIZE:
        return None
    tail = Tail(newest, rows[newest].stop)
    if not packs.reaches(tail):
        log.error("pack %d is missing or cut short: fsck tells whom it hurts", newest)
        return None
    return tail


def _is_end_of_segment(packs: Packs, tail: Tail) -> bool:
    # Only asked of a pack with something behind its end, which is cut off: after a crash, or if
    # the row that says where the end is was damaged.
    if packs.size(tail.pack) == tail.stop:
        return True
    try:
        return all(True for _ in packs.entries(tail.pack, tail.stop))
    except (CorruptPack, ValueError):
        return False


def _is_needed(index: Index, pack: PackId) -> bool:
    # Bytes are only ever removed for good if nothing says that they are of use. A crash during gc
    # leaves packs of which the counter knows, too, so this costs a walk over the chunks at times.
    if pack >= Counters(index).get(NEXT_PACK):
        return False
    return any(_may_lie_in(value, pack) for _, value in index.pages(Table.CHUNKS))


def _may_lie_in(value: bytes, pack: PackId) -> bool:
    try:
        record = Chunk.from_bytes(value)
    except CorruptIndex:
        return True
    return record.pack == pack or record.is_lost


def _pack_rows(index: Index) -> dict[PackId, PackRow]:
    return {
        PackId(number_of(key)): PackRow.from_bytes(value) for key, value in index.pages(Table.PACKS)
    }
