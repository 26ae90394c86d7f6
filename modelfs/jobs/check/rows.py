"""Invariants of single rows: they decode, their inodes exist, and counters and totals are right."""

import stat
from collections.abc import Iterator
from typing import Final

from modelfs.errors import CorruptIndex
from modelfs.jobs.check.findings import Finding, Severity
from modelfs.jobs.check.impact import chunk_finding
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.check.view import CheckView
from modelfs.store.files.divided import holes_of
from modelfs.store.files.staged_checksums import is_intact, may_be_shorter
from modelfs.store.files.window import WINDOW, origin_of, window_name
from modelfs.store.index.counters import (
    BASE_ONLY_BYTES,
    BASE_ONLY_CHUNKS,
    DEAD_BYTES,
    DEAD_CHUNKS,
    FILES,
    LOGICAL,
    NEXT_CHUNK,
    NEXT_INODE,
    NEXT_PACK,
    SHARED,
)
from modelfs.store.index.decoders import DECODERS, decode_meta
from modelfs.store.index.index import Index
from modelfs.store.index.records import WindowRanges
from modelfs.store.index.superblock import FORMAT_VERSION, SUPERBLOCK
from modelfs.store.index.tables import (
    KEY_MAX,
    ROOT,
    ChunkId,
    InodeNumber,
    Table,
    number_key,
    number_of,
    numbers_of,
    pair_key,
    pair_of,
)

# The tables whose keys begin with an inode; True where it has to be a regular file's.
OF_INODES: Final = (
    (Table.XATTRS, False),
    (Table.PENDING, False),
    (Table.TO_OPTIMIZE, False),
    (Table.TRIMS, True),
    (Table.TENSORS, True),
    (Table.STAGED, True),
    (Table.LOST, True),
)
# All tables whose keys begin with an inode that a path leads to.
BY_INODE: Final = (
    *(table for table, _ in OF_INODES),
    Table.INODES,
    Table.PARENTS,
    Table.SYMLINKS,
    Table.EXTENTS,
    Table.ORPHANS,
)
CHUNK_TOTALS: Final = (SHARED, DEAD_CHUNKS, DEAD_BYTES, BASE_ONLY_CHUNKS, BASE_ONLY_BYTES)
COUNTERS: Final = (
    (NEXT_INODE, Table.INODES),
    (NEXT_CHUNK, Table.CHUNKS),
    (NEXT_PACK, Table.PACKS),
)


def rows_decode(view: CheckView, _: Reported) -> Iterator[Finding | Reported]:
    """Every row of every table matches its checksum and decodes."""
    problems = {table: _row_problems(view.index, table) for table in Table}
    broken = {table: frozenset(by_key) for table, by_key in problems.items()}
    misnamed = frozenset(map(InodeNumber, numbers_of(broken[Table.PARENTS])))
    yield Reported(broken=broken, misnamed=misnamed)
    readable = CheckView(view.store, broken)
    for table, by_key in problems.items():
        for key, problem in by_key.items():
            message = f"{table.value} row {key[:32].hex()}: {problem}"
            if table is Table.CHUNKS and len(key) == 8:
                yield chunk_finding(readable, "row", message, {ChunkId(number_of(key))})
            elif table in BY_INODE and len(key) >= 8:
                yield Finding("row", message, (readable.path(number_of(key)),))
            else:
                yield Finding("row", message)


def _row_problems(index: Index, table: Table) -> dict[bytes, str]:
    """Return the problem of each row that is broken, by key."""
    problems: dict[bytes, str] = {}
    damaged: set[bytes] = set()
    for key, value in index.pages(table, damaged=damaged):
        try:
            DECODERS[table](key, value)
        except CorruptIndex as exc:
            problems[key] = str(exc)
    return problems | dict.fromkeys(sorted(damaged), "it does not match its checksum")


def superblock_is_right(view: CheckView, _: Reported) -> Iterator[Finding]:
    """The index has a superblock, with a known format version."""
    value = view.index.get(Table.META, SUPERBLOCK)
    if value is None:
        yield Finding("superblock", "the index has no superblock")
    elif not 0 < view.store.superblock.version <= FORMAT_VERSION:
        message = f"the superblock is of format {view.store.superblock.version}"
        yield Finding("superblock", message)


def counters_are_ahead(view: CheckView, _: Reported) -> Iterator[Finding]:
    """The counters of next numbers are above all numbers in use."""
    for counter, table in COUNTERS:
        if counter in view.broken[Table.META]:
            continue
        following = view.store.counters.get(counter)
        first = ROOT + 1 if table is Table.INODES else 1
        newest = view.index.floor_key(table, number_key(KEY_MAX), number_key(0))
        in_use = 0 if newest is None else number_of(newest)
        if following < max(first, in_use + 1):
            message = f"{counter.decode()} is {following}, but {in_use} is in use"
            yield Finding("counter", message)


def inodes_exist(view: CheckView, _: Reported) -> Iterator[Finding]:
    """The inode of a row exists, and is of a type that can have such a row."""
    for table, regular in OF_INODES:
        last = None
        for key, _value in view.pages(table):
            inode = number_of(key)
            if inode == last:
                continue
            last = inode
            if number_key(inode) in view.broken[Table.INODES]:
                continue
            message = f"{table.value} of inode {inode}"
            if (node := view.inode(inode)) is None:
                yield Finding("row-inode", f"{message}: it does not exist")
            elif regular and not stat.S_ISREG(node.mode):
                yield Finding("row-inode", f"{message}: it is no regular file")


def windows_are_there(view: CheckView, _: Reported) -> Iterator[Finding]:
    """A staged window has a file, which has the ranges of its row."""
    for key, row in view.rows(Table.STAGED, WindowRanges.from_row):
        inode, number = pair_of(key)
        problem = _window_problem(view, inode, number, row)
        if problem is not None and view.is_current(Table.STAGED, key):
            message = f"window {number} of inode {inode}: {problem}"
            ranges = [*row.ranges] or [(0, 0)]
            tensors = view.tensors(inode, ranges[0][0], ranges[-1][1])
            yield Finding("window", message, (view.path(inode),), tuple(tensors))


def staged_bytes_are_intact(view: CheckView, _: Reported) -> Iterator[Finding | Reported]:
    """Staged bytes match the checksum of their row, if it has one."""
    for key, row in view.rows(Table.STAGED, WindowRanges.from_row):
        inode, number = pair_of(key)
        is_right = is_intact(view.index, view.store.staging.directory, key, row)
        if is_right or not view.is_current(Table.STAGED, key):
            continue
        yield Reported(damaged_windows=frozenset([key]))
        if _window_problem(view, inode, number, row) is None:  # else it is reported already
            message = f"window {number} of inode {inode}: its bytes do not match their checksum"
            tensors = [name for low, high in row.ranges for name in view.tensors(inode, low, high)]
            yield Finding("staged", message, (view.path(inode),), tuple(dict.fromkeys(tensors)))


def lost_bytes_are_staged(view: CheckView, _: Reported) -> Iterator[Finding]:
    """Bytes that the disk has lost are bytes of a staged window."""
    for key, row in view.rows(Table.LOST, WindowRanges.from_row):
        if key in view.broken[Table.STAGED]:
            continue
        window = view.find(Table.STAGED, key, WindowRanges.from_row)
        if window is None or not row.is_part_of(window):
            inode, number = pair_of(key)
            message = f"window {number} of inode {inode}: the record of lost bytes is of another"
            yield Finding("lost", message, (view.path(inode),))


def _window_problem(view: CheckView, inode: int, number: int, row: WindowRanges) -> str | None:
    start = number * WINDOW
    if any(low < start or high > start + WINDOW for low, high in row.ranges):
        return "it has ranges outside its bounds"
    name = window_name(inode, number, row.generation)
    try:
        length = view.store.staging.directory.status(name).st_size
    except OSError as exc:
        return f"its file {name}: {exc.strerror}"
    key, expected = pair_key(inode, number), row.ranges.copy()
    lost = view.find(Table.LOST, key, WindowRanges.from_row)
    for low, high in lost.ranges if lost is not None and lost.is_part_of(row) else ():
        expected.remove(low, high)
    end = expected.stop - origin_of(number, row.generation)
    if expected and length < end and not may_be_shorter(view.index, key, row):
        return f"its file {name} has {length} of {end} bytes"
    if holes := holes_of(view.store.staging.directory, key, row).common(expected):
        return f"its file {name} lacks {holes.size} bytes, which are in chunks of a later commit"
    return None


def totals_are_right(view: CheckView, _: Reported) -> Iterator[Finding]:
    """The totals that `stats` and `statfs` show are the sums of the rows."""
    for name, amount in counted_totals(view).items():
        if name not in view.broken[Table.META] and view.store.counters.get(name) != amount:
            total = view.store.counters.get(name)
            message = f"{name.decode()} is {total}, but adds up to {amount}"
            yield Finding("total", message, severity=Severity.ACCOUNT)


def counted_totals(view: CheckView) -> dict[bytes, int]:
    """Return the right value of each total, except those of tables with broken rows."""
    totals: dict[bytes, int] = {}
    if not view.broken[Table.INODES]:
        sizes = [node.size for node in view.inodes() if stat.S_ISREG(node.mode)]
        totals |= {FILES: len(sizes), LOGICAL: sum(sizes)}
    if not view.broken[Table.CHUNKS]:
        counters = (key for key, _ in view.rows(Table.META, decode_meta))
        forms = [key for key in counters if key.startswith(b"form.")]
        totals |= dict.fromkeys((*CHUNK_TOTALS, *forms), 0) | view.counts.totals
    return totals
