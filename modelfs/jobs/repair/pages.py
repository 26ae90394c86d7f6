"""Repair of LMDB's pages, before LMDB opens the index.

Theory of operation. The meta pages are right already (see `meta_pages`). All trees are walked (see
`store.index.pages.walk`). If a page is damaged, or LMDB refuses the file for another reason, the
rows that can still be read go into a new data file:

1. those of the leaves that the trees still reach;
2. of a leaf with a damaged overflow page, or with a damaged key, all other rows;
3. those of leaves that no tree reaches any more, since a page above them is damaged. The file also
   has the leaves of older commits, and their rows must not come back. But all of these are in the
   list of free pages. So a leaf that is neither in a tree nor free is one of the last commit, if
   that list is whole. Its table is the one whose rows it can have: all of them match their
   checksums, which differ by table, and decode, and their keys are missing in that table.

If the tree of tables itself is damaged, and that of the commit before is not, the rows are those of
that commit: its pages are still in the file.

What cannot be recovered is missing afterwards, and the ordinary repair finds that in other rows, in
the totals of inodes, and in the packs. A file with fewer rows of staged windows than its inode
counts would be lost as a whole. So if such rows may be missing, each staging file without a row
gets one that does not decode: then the bytes of its window count as lost, and no others.

The damaged file is kept in quarantine. A crash before the new one takes its place leaves the store
as it was.

Example. In the tree of `chunks` the root, branch page 12, cannot be read. Its leaves 30, 31 and 32
are neither reached nor free, and all their rows are chunks. The rows of page 40 are chunks as well,
but of an older commit: the page is free. The new file has the rows of 30, 31 and 32.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final, NamedTuple

from modelfs.errors import CorruptIndex
from modelfs.jobs.check.findings import Finding
from modelfs.jobs.repair.quarantine import Quarantine
from modelfs.store.disk.directory import Directory
from modelfs.store.files.window import window_of
from modelfs.store.folder import STAGING, check_format, open_content_folder
from modelfs.store.index.committed import FIRST_ROWS
from modelfs.store.index.decoders import DECODERS
from modelfs.store.index.opening import walk_compared
from modelfs.store.index.pages.data_file import DATA_FILE
from modelfs.store.index.pages.layout import (
    BRANCH,
    LEAF,
    OVERFLOW,
    DamagedPage,
    Node,
    PageFile,
    nodes_of,
    value_of,
)
from modelfs.store.index.pages.meta import newest, read_metas
from modelfs.store.index.pages.meta_check import meta_problems
from modelfs.store.index.pages.uses import Use
from modelfs.store.index.pages.walk import FREE, TABLES, PageProblem, PageWalk
from modelfs.store.index.rebuild import replace_data_file, write_new
from modelfs.store.index.row_checksum import CHECKSUMS_SINCE, checked
from modelfs.store.index.tables import Table, pair_key

Row = tuple[bytes, bytes]

# Tables whose decoders accept any value.
ANY_VALUE: Final = frozenset({Table.SYMLINKS, Table.XATTRS})


class Salvage(NamedTuple):
    """The salvage of an index with damaged pages."""

    findings: list[Finding]
    message: str


def salvage_index(
    store: Directory,
    index: Directory,
    quarantine: Quarantine,
    note_loss: Callable[[str], None],
    refusal: Exception | None = None,
) -> Salvage | None:
    """Write the rows of an index with damaged pages to a new one; None if all pages are sound.

    The caller has the store's lock, LMDB has not opened the index yet, and a meta page is whole.

    Args:
        store: its folder.
        index: the folder of the index.
        quarantine: gets the damaged file.
        note_loss: is called with the message before the new file takes the place of the old one.
        refusal: an error of LMDB: all rows are written in any case.

    Raises:
        StoreFull: there is no room for a copy of the index. Nothing has changed.
        FolderMissing: the staging files are missing, and rows of them may be, too; the same holds.
        OSError: the disk failed; the same holds.
    """
    with PageFile(index) as file:
        meta = newest(read_metas(file))
        assert meta is not None, "a meta page is whole"
        walk = walk_compared(file, meta)
        problems = [*map(str, walk.problems)] or meta_problems(file)
        problems += [str(refusal)] if refusal is not None else []
        if not problems:
            return None
        findings = [Finding("page", problem) for problem in problems]
        with_checksums = _have_checksums(file, walk, check_format(store) >= CHECKSUMS_SINCE)
        rows = SalvagedRows(file, walk, with_checksums=with_checksums)
        which = ""
        if not rows.has_all_leaves and (before := _commit_before(file, walk)) is not None:
            rows = SalvagedRows(file, before, with_checksums=with_checksums)
            which = f" of commit {before.meta.transaction}, the one before the last,"
        count = write_new(index, {table: _with_windows(store, rows, table) for table in Table})
    message = (
        f"the index had damaged pages: {count} rows{which} are in a new one, and all that can be "
        "restored from them is; files that lost something are listed"
    )
    quarantine.link(index, DATA_FILE)
    note_loss(message)
    replace_data_file(index)
    return Salvage(findings, message)


def _have_checksums(file: PageFile, walk: PageWalk, default: bool) -> bool:
    """Whether rows have checksums, by the first row that shows it; `default` if none is left."""
    for table, key, length in FIRST_ROWS:
        for place in walk.leaves.get(table.value, ()):
            for node in nodes_of(file.read(place.number), place.number, LEAF):
                if node.key == key:
                    return len(value_of(file, node)) != length
    return default


def _commit_before(file: PageFile, walk: PageWalk) -> PageWalk | None:
    """Return the walk of the commit before, if that has the tree of tables and this one has not."""
    if TABLES in walk.damaged_trees:
        for meta in read_metas(file):
            if meta is not None and meta.transaction != walk.meta.transaction:
                before = PageWalk(file, meta, walk.sums, walk.matches)
                if TABLES not in before.damaged_trees:
                    return before
    return None


def _with_windows(store: Directory, rows: "SalvagedRows", table: Table) -> Iterator[Row]:
    """Yield the rows of a table, and one that does not decode for each window that may lack one."""
    if table is not Table.STAGED or not rows.may_lack(table):
        yield from rows.of(table)
        return
    found = dict(rows.of(table))
    for name in open_content_folder(store, STAGING).names():
        if (window := window_of(name)) is not None:
            found.setdefault(pair_key(*window), b"")
    yield from sorted(found.items())


class SalvagedRows:
    """The rows of a damaged index that can be read."""

    def __init__(self, file: PageFile, walk: PageWalk, *, with_checksums: bool) -> None:
        """Find the leaves; `walk` is that of the commit to recover."""
        self._with_checksums = with_checksums
        self._file = file
        self._walk = walk
        self._problems: dict[Table, list[PageProblem]] = {table: [] for table in Table}
        trees = walk.damaged_trees
        for table, problems in self._problems.items():
            problems.extend(problem for problem in walk.problems if problem.tree == table.value)
            if TABLES in trees and table.value not in walk.leaves:
                problems.append(PageProblem(walk.meta.tables.root, TABLES, b"", None, "no tree"))
        # Rows that are in no sound leaf of a tree: parts of leaves, and leaves.
        self._found: dict[Table, list[list[Row]]] = {table: [] for table in Table}
        self._read_damaged_leaves()
        # Whether every leaf of the commit was found, and its table is known.
        self.has_all_leaves = FREE not in trees and self._adopt_leaves()

    def may_lack(self, table: Table) -> bool:
        """Whether rows of a table may be missing."""
        return bool(self._problems[table])

    def of(self, table: Table) -> Iterator[Row]:
        """Yield the rows of a table, in the order of their keys."""
        found = sorted(self._found[table])
        for place in self._walk.leaves.get(table.value, ()):
            nodes = nodes_of(self._file.read(place.number), place.number, LEAF)
            while found and found[0][0][0] < nodes[0].key:
                yield from found.pop(0)
            yield from ((node.key, value_of(self._file, node)) for node in nodes)
        for rows in found:
            yield from rows

    def _read_damaged_leaves(self) -> None:
        """Find the sound rows of leaves in which other rows are damaged."""
        for table, problems in self._problems.items():
            for problem in problems:
                # A page that is in use is one with a sound use.
                is_lost = problem.tree == TABLES or problem.page in self._walk.stale
                is_partly_sound = problem.page in self._walk.partly
                is_lost |= self._walk.uses.is_in_tree(problem.page) and not is_partly_sound
                if not is_lost and (rows := self._sound_rows(table, problem)):
                    self._found[table].append(rows)

    def _sound_rows(self, table: Table, problem: PageProblem) -> list[Row]:
        rows: list[Row] = []
        for node in self._nodes(problem.page):
            is_above = not rows or rows[-1][0] < node.key
            is_below = problem.high is None or node.key < problem.high
            if problem.low <= node.key and is_above and is_below:
                rows += self._row(table, node)
        return rows

    def _nodes(self, number: int) -> list[Node]:
        """Return the nodes of a leaf; none if it is no leaf, or is damaged as a whole."""
        try:
            page = self._file.read(number)
            return nodes_of(page, number, LEAF) if len(page) == self._file.page_size else []
        except (DamagedPage, OSError):
            return []

    def _row(self, table: Table, node: Node) -> list[Row]:
        """Return the row of a node in a list, which is empty if the row is not sound."""
        try:
            if self._walk.has_stale_value(table.value, node):
                return []
            value = value_of(self._file, node)
            decoded = checked(table, node.key, value) if self._with_checksums else value
            DECODERS[table](node.key, decoded)
        except (DamagedPage, CorruptIndex, OSError):
            return []
        return [(node.key, value)]

    def _adopt_leaves(self) -> bool:
        """Find the leaves of the last commit that no tree reaches, and their tables.

        Returns:
            Whether none is left out.
        """
        damaged = {problem.page: problem.tree for problem in self._walk.problems}
        uses = self._walk.uses
        has_all = len(uses.by_page) > self._walk.meta.last
        beyond = 0  # the end of the last value on overflow pages
        for number in uses.pages(Use.NONE):
            if number < beyond:
                continue
            if number in damaged:
                has_all &= damaged[number] == TABLES
                continue
            kind, count = self._file.kind(number)
            if kind == OVERFLOW:
                beyond = number + count
            elif kind != BRANCH:
                has_all &= self._adopt(number)
        return has_all

    def _adopt(self, number: int) -> bool:
        """Add the rows of a leaf to its table, if that is known; return whether it is."""
        nodes = self._nodes(number)
        if not nodes or any(one.key >= other.key for one, other in pairwise(nodes)):
            return False
        if self._walk.sums.differs(number, self._file.read(number)):
            return False
        tables = [table for table in Table if self._fits(table, nodes)]
        if len(tables) > 1:
            tables = [table for table in tables if table not in ANY_VALUE]
        if len(tables) != 1:
            return False
        self._found[tables[0]].append([row for node in nodes for row in self._row(tables[0], node)])
        return True

    def _fits(self, table: Table, nodes: list[Node]) -> bool:
        """Whether a leaf can be one that a table lacks."""
        return any(
            problem.low <= nodes[0].key and (problem.high is None or nodes[-1].key < problem.high)
            for problem in self._problems[table]
        ) and all(self._row(table, node) for node in nodes)
