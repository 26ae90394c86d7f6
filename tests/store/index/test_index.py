"""The index, compared with a dict, at every step of a commit and with failures."""

import contextlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from modelfs.errors import CorruptIndex, NotAStore, StoreReadOnly
from modelfs.store.disk.directory import Directory
from modelfs.store.index import committed as committed_module
from modelfs.store.index.committed import CommittedRows, Row
from modelfs.store.index.index import CommitBatch, Index
from modelfs.store.index.memtable import Memtable
from modelfs.store.index.tables import Table, pair_key
from tests.support.damaged_rows import flipped, raw_rows
from tests.support.stores import run_apart

TABLES = st.sampled_from([Table.EXTENTS, Table.TRIMS])
# Few keys, so that layers often have the same ones.
KEYS = st.builds(pair_key, st.integers(1, 2), st.integers(0, 5))
VALUES = st.binary(min_size=1, max_size=2)
CHANGES = st.lists(st.tuples(TABLES, KEYS, st.none() | VALUES), max_size=8)
STEPS = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

Rows = dict[tuple[Table, bytes], bytes]
Changes = list[tuple[Table, bytes, bytes | None]]


class Interrupted(Exception):
    """Raised inside a change."""


def apply(rows: Rows, changes: Changes) -> None:
    for table, key, value in changes:
        if value is None:
            rows.pop((table, key), None)
        else:
            rows[table, key] = value


class LikeADict(RuleBasedStateMachine):
    """Change an index and a dict alike; both have the same rows, in memory and on disk."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.index = Index(Directory(Path(self.folder.name)))
        self.rows: Rows = {}
        self.sealed: Rows = {}
        self.durable: Rows = {}
        self.batch: CommitBatch | None = None
        self.written = False

    def put(self, changes: Changes) -> None:
        for table, key, value in changes:
            if value is None:
                self.index.delete(table, key)
            else:
                self.index.put(table, key, value)

    @rule(changes=CHANGES)
    def change(self, changes: Changes) -> None:
        with self.index.change():
            self.put(changes)
        apply(self.rows, changes)

    @rule(changes=CHANGES, more=CHANGES)
    def change_in_change(self, changes: Changes, more: Changes) -> None:
        with self.index.change():
            self.put(changes)
            with self.index.change():
                self.put(more)
        apply(self.rows, changes + more)

    @rule(changes=CHANGES, more=CHANGES)
    def fail_to_change(self, changes: Changes, more: Changes) -> None:
        with contextlib.suppress(Interrupted), self.index.change():
            self.put(changes)
            with self.index.change():
                self.put(more)
                raise Interrupted

    @precondition(lambda self: self.batch is None)
    @rule()
    def seal(self) -> None:
        self.batch = self.index.seal()
        self.sealed = dict(self.rows)

    @precondition(lambda self: self.batch is not None)
    @rule()
    def write(self) -> None:
        assert self.batch is not None
        self.batch.write()
        self.durable = dict(self.sealed)
        self.written = True

    @precondition(lambda self: self.written)
    @rule()
    def release(self) -> None:
        self.index.release()
        self.batch, self.written = None, False

    @precondition(lambda self: self.batch is not None and not self.written)
    @rule()
    def give_batch_up(self) -> None:
        self.batch = None

    @precondition(lambda self: self.batch is None)
    @rule()
    def commit(self) -> None:
        self.index.commit()
        assert not self.index.dirty
        self.durable = dict(self.rows)

    @rule()
    def reopen(self) -> None:
        self.index.close()
        self.index = Index(Directory(Path(self.folder.name)))
        self.rows = dict(self.durable)
        self.batch, self.written = None, False

    @rule(table=TABLES, start=KEYS, stop=KEYS, limit=st.integers(1, 5))
    def scan(self, table: Table, start: bytes, stop: bytes, limit: int) -> None:
        assert (
            self.index.scan(table, start, stop, limit) == self.between(table, start, stop)[:limit]
        )

    @rule(table=TABLES, low=KEYS, key=KEYS)
    def floor(self, table: Table, low: bytes, key: bytes) -> None:
        below = self.between(table, low, key + b"\0")
        assert self.index.floor(table, key, low) == (below[-1] if below else None)

    def between(self, table: Table, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        rows = ((key, value) for (which, key), value in self.rows.items() if which is table)
        return sorted((key, value) for key, value in rows if start <= key < stop)

    @invariant()
    def same_rows(self) -> None:
        for table in (Table.EXTENTS, Table.TRIMS):
            rows = self.between(table, b"", b"\xff")
            assert list(self.index.pages(table)) == rows
            for key, value in rows:
                assert self.index.get(table, key) == value
        assert self.index.get(Table.EXTENTS, pair_key(3, 0)) is None

    def teardown(self) -> None:
        self.index.close()
        self.folder.cleanup()


def test_an_index_is_a_dict() -> None:
    """Rows are read through all layers; a failed change and a crash leave no trace."""
    run_state_machine_as_test(LikeADict, settings=STEPS)


def test_pages_are_seamless(monkeypatch: pytest.MonkeyPatch) -> None:
    """With pages of two rows no row is left out or yielded twice."""
    monkeypatch.setattr(committed_module, "SCAN_PAGE", 2)
    monkeypatch.setattr(Index.scan, "__defaults__", (2,))
    run_state_machine_as_test(LikeADict, settings=STEPS)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(Directory(tmp_path))
    yield index
    index.close()


def test_an_unwritten_batch_is_part_of_the_next(index: Index, tmp_path: Path) -> None:
    """The next commit writes the changes of a failed one."""
    with index.change():
        index.put(Table.META, b"a", b"1")
        index.put(Table.META, b"b", b"1")
    index.seal()
    with index.change():
        index.put(Table.META, b"b", b"2")
    index.commit()
    index.close()
    again = Index(Directory(tmp_path))
    assert list(again.pages(Table.META)) == [(b"a", b"1"), (b"b", b"2")]
    again.close()


def test_a_read_only_index_takes_no_changes(index: Index, tmp_path: Path) -> None:
    """A change of a read-only index is refused."""
    index.close()
    reader = Index(Directory(tmp_path), read_only=True)
    with pytest.raises(StoreReadOnly), reader.change():
        reader.put(Table.META, b"a", b"1")
    assert reader.get(Table.META, b"a") is None
    reader.close()


def test_no_index_is_no_store(tmp_path: Path) -> None:
    """A folder that was deleted is no store; a folder of junk is damage."""
    (tmp_path / "deleted").mkdir()
    deleted = Directory(tmp_path / "deleted")
    (tmp_path / "deleted").rmdir()
    with pytest.raises(NotAStore):
        Index(deleted, read_only=True)
    (tmp_path / "data.mdb").write_bytes(b"junk" * 10_000)
    with pytest.raises(CorruptIndex):
        Index(Directory(tmp_path))


WRITE: Final = """
import sys
from typing import Any, Final
from pathlib import Path
from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from modelfs.store.index.tables import Table
index = Index(Directory(Path(sys.argv[1])))
with index.change():
    index.put(Table.META, b"other", b"1")
index.commit()
index.close()
"""


@pytest.mark.parametrize("exclude_writers", [False, True])
def test_another_process_changes_the_version(
    index: Index, tmp_path: Path, *, exclude_writers: bool
) -> None:
    """Another process's commit changes the version, unless writers are excluded."""
    index.close()
    reader = Index(Directory(tmp_path), read_only=True, exclude_writers=exclude_writers)
    before = reader.version(Table.META)
    subprocess.run([sys.executable, "-c", WRITE, tmp_path], check=True)
    assert (reader.version(Table.META) == before) == exclude_writers
    reader.close()


def test_versions_change_with_their_tables(index: Index) -> None:
    """A change of a table changes its version, also a rollback, and no other version."""
    before = index.version(Table.META)
    with contextlib.suppress(Interrupted), index.change():
        index.put(Table.META, b"a", b"1")
        changed = index.version(Table.META)
        raise Interrupted
    assert len({before, changed, index.version(Table.META)}) == 3
    with index.change():
        before = index.version(Table.META)
        index.put(Table.TRIMS, b"a", b"1")
    assert index.version(Table.META) == before


def put_all(index: Index, keys: list[bytes], value: bytes) -> None:
    with index.change():
        for key in keys:
            index.put(Table.EXTENTS, key, value)


def test_readers_on_threads_see_whole_rows(index: Index) -> None:
    """A scan during puts, seals, writes and releases yields every old row."""
    keys = [pair_key(1, number) for number in range(300)]
    put_all(index, keys, b"old")
    done = threading.Event()
    problems: list[int] = []

    def read() -> None:
        while not done.is_set():
            rows = index.scan(Table.EXTENTS, keys[0], pair_key(2, 0))
            if len(rows) != len(keys):
                problems.append(len(rows))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(30):
        put_all(index, keys, b"%d" % number)
        index.commit()
    done.set()
    for reader in readers:
        reader.join()
    assert problems == []


PUT = """
import sys
from typing import Any, Final
from pathlib import Path
from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from modelfs.store.index.tables import Table
index = Index(Directory(Path(sys.argv[1])))
with index.change():
    index.put(Table.META, b"key", sys.argv[2].encode())
index.commit()
"""


def test_a_pinned_reader_sees_one_commit(tmp_path: Path) -> None:
    """A pinned reader sees one commit, and the newest one on request."""
    run_apart(PUT, tmp_path, "1")
    reader = Index(Directory(tmp_path), read_only=True)
    with reader.rows.pinned():
        assert reader.get(Table.META, b"key") == b"1"
        run_apart(PUT, tmp_path, "2")
        assert reader.get(Table.META, b"key") == b"1"
        assert list(reader.pages(Table.META)) == [(b"key", b"1")]
        assert reader.rows.newest(Table.META, b"key") == b"2"
    assert reader.get(Table.META, b"key") == b"2"
    reader.close()


def test_several_threads_are_pinned_at_once(tmp_path: Path) -> None:
    """Each thread sees the commit that it is pinned to."""
    run_apart(PUT, tmp_path, "1")
    index = Index(Directory(tmp_path), read_only=True)
    pinned, go = threading.Event(), threading.Event()
    values: list[bytes | None] = []

    def work() -> None:
        with index.rows.pinned():
            pinned.set()
            assert go.wait(20)
            values.append(index.get(Table.META, b"key"))

    thread = threading.Thread(target=work)
    thread.start()
    assert pinned.wait(20)
    run_apart(PUT, tmp_path, "2")
    with index.rows.pinned():
        before = index.rows.snapshot_id()
        run_apart(PUT, tmp_path, "3")
        assert index.get(Table.META, b"key") == b"2"
        assert index.rows.snapshot_id() == before
        go.set()
        thread.join(20)
    assert values == [b"1"]
    assert index.get(Table.META, b"key") == b"3"
    index.close()


def test_a_writer_is_not_pinned(index: Index) -> None:
    """The owner sees its own changes, pinned or not; the committed rows lack them."""
    with index.rows.pinned(), index.change():
        index.put(Table.META, b"key", b"1")
        assert index.get(Table.META, b"key") == b"1"
        assert index.rows.newest(Table.META, b"key") is None


def test_a_change_that_raises_needs_no_commit(index: Index) -> None:
    """After a change that was undone there is nothing to commit."""
    commit = index.rows.snapshot_id()
    with contextlib.suppress(ValueError), index.change():
        index.put(Table.META, b"a", b"1")
        raise ValueError
    assert (index.dirty, index.uncommitted_seconds, index.uncommitted_bytes) == (False, 0, 0)
    index.commit()
    assert index.rows.snapshot_id() == commit


def test_deleting_a_missing_row_changes_nothing(index: Index) -> None:
    """Deleting a missing row leaves nothing in memory that a scan would step over."""
    with index.change():
        index.put(Table.META, b"there", b"x")
    index.commit()
    with index.change():
        index.delete(Table.META, b"not there")
    assert (index.changes, index.dirty) == (0, False)
    with index.change():
        index.delete(Table.META, b"there")
        index.delete(Table.META, b"there")
    assert (index.changes, index.dirty) == (1, True)
    assert index.get(Table.META, b"there") is None


def test_a_row_that_no_commit_has_is_deleted_without_a_trace(index: Index) -> None:
    """A row that comes and goes between two seals leaves nothing that a scan would step over."""
    with index.change():
        index.put(Table.META, b"key", b"1")
        index.delete(Table.META, b"key")
    assert index.changes == 0
    with index.change():
        index.put(Table.META, b"key", b"1")
    batch = index.seal()
    for _ in range(2):
        with index.change():
            index.delete(Table.META, b"key")
        assert index.changes == 1  # it hides the row of the commit that is under way
        with index.change():
            index.put(Table.META, b"key", b"2")
    with index.change():
        index.delete(Table.META, b"key")
    batch.write()
    index.release()
    index.commit()
    assert index.get(Table.META, b"key") is None


def test_a_failed_change_brings_a_deleted_row_back(index: Index) -> None:
    """A deletion without a trace is undone like any other."""
    with index.change():
        index.put(Table.META, b"key", b"1")

    def change() -> None:
        with index.change():
            index.delete(Table.META, b"key")
            index.put(Table.META, b"key", b"2")
            index.delete(Table.META, b"key")
            raise Interrupted

    with pytest.raises(Interrupted):
        change()
    assert index.get(Table.META, b"key") == b"1"


@pytest.mark.parametrize("after", [False, True], ids=["before a row", "after a row"])
def test_an_interrupted_change_is_never_committed(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    """Ctrl-C beside the change of a row undoes the whole change, and no commit follows."""
    table, rows = Table.TRIMS, [pair_key(1, number) for number in range(3)]
    with index.change():
        index.put(table, rows[0], b"old")
    index.commit()
    change_row = Memtable.set

    def interrupted(memtable: Memtable, table: Table, key: bytes, value: bytes | None) -> None:
        if after or key != rows[2]:
            change_row(memtable, table, key, value)
        if key == rows[2]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Memtable, "set", interrupted)

    def change() -> None:
        with index.change():
            for row in rows:
                index.put(table, row, b"new")

    with pytest.raises(KeyboardInterrupt):
        change()
    assert list(index.pages(table)) == [(rows[0], b"old")]
    with pytest.raises(KeyboardInterrupt, match="interrupted"):
        change()
    with pytest.raises(KeyboardInterrupt, match="interrupted"):
        index.seal()
    index.close()
    reopened = Index(Directory(tmp_path))
    assert list(reopened.pages(table)) == [(rows[0], b"old")]
    reopened.close()


@pytest.mark.parametrize("late", [b"new", None], ids=["put", "deleted"])
def test_a_change_during_a_listing(
    index: Index, monkeypatch: pytest.MonkeyPatch, late: bytes | None
) -> None:
    """A row that changes between the looks at memory and at LMDB is listed with either value."""
    with index.change():
        for key in (b"a", b"b", b"c"):
            index.put(Table.META, key, b"old")
    index.commit()
    with index.change():
        index.put(Table.META, b"a", b"1")
        index.delete(Table.META, b"c")
    page = CommittedRows.page

    def changed_first(*arguments: Any) -> list[Row]:
        with index.change():
            if late is None:
                index.delete(Table.META, b"b")
            else:
                index.put(Table.META, b"b", late)
        return page(*arguments)

    monkeypatch.setattr(CommittedRows, "page", changed_first)
    rows = dict(index.pages(Table.META))
    assert rows == {b"a": b"1"} | ({} if late is None else {b"b": late})


# -- damaged rows


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[Index]:
    """An index with rows a to e in a table, of which b and d are damaged."""
    index = Index(Directory(tmp_path))
    with index.change():
        for name in (b"a", b"b", b"c", b"d", b"e"):
            index.put(Table.META, name, name * 3)
    index.commit()
    index.close()
    with raw_rows(tmp_path) as rows:
        for name in (b"b", b"d"):
            rows[Table.META][name] = flipped(rows[Table.META][name], 3)
    index = Index(Directory(tmp_path))
    yield index
    index.close()


def test_a_damaged_row_is_an_error(damaged: Index) -> None:
    """Reading a row that does not match its checksum, alone or among others, raises."""
    assert damaged.get(Table.META, b"a") == b"aaa"
    for read in (
        lambda: damaged.get(Table.META, b"b"),
        lambda: damaged.rows.newest(Table.META, b"b"),
        lambda: damaged.scan(Table.META, b"", b"z"),
        lambda: list(damaged.pages(Table.META)),
        lambda: damaged.floor(Table.META, b"d", b"a"),
    ):
        with pytest.raises(CorruptIndex, match="does not match its checksum"):
            read()


@pytest.mark.parametrize("limit", range(1, 7))
def test_damaged_rows_can_be_passed_over(damaged: Index, limit: int) -> None:
    """A scan may name damaged rows in place of raising; it still returns `limit` whole rows."""
    keys: set[bytes] = set()
    rows = damaged.scan(Table.META, b"", b"z", limit, damaged=keys)
    assert rows == [(name, name * 3) for name in (b"a", b"c", b"e")][:limit]
    assert keys == set((set(), {b"b"}, {b"b", b"d"}, {b"b", b"d"})[min(limit - 1, 3)])
    assert list(damaged.keys(Table.META)) == [b"a", b"c", b"e"]


def test_a_damaged_row_exists(damaged: Index) -> None:
    """Look-ups of keys alone see it, it can be read as it is, deleted, and written again."""
    assert damaged.has(Table.META, b"d")
    assert damaged.floor_key(Table.META, b"d", b"a") == b"d"
    assert (damaged.rows.stored(Table.META, b"d") or b"")[1:3] == b"dd"
    with damaged.change():
        damaged.delete(Table.META, b"b")
        damaged.put(Table.META, b"d", b"new")
    damaged.commit()
    assert not damaged.has(Table.META, b"b")
    assert list(damaged.pages(Table.META)) == [
        *((name, name * 3) for name in (b"a", b"c")),
        (b"d", b"new"),
        (b"e", b"eee"),
    ]


def test_a_changed_row_hides_a_damaged_one(damaged: Index) -> None:
    """Before its commit a new value is read in place of the damaged row."""
    with damaged.change():
        damaged.put(Table.META, b"b", b"new")
        damaged.delete(Table.META, b"d")
    assert [value for _, value in damaged.pages(Table.META)] == [b"aaa", b"new", b"ccc", b"eee"]
    assert damaged.floor_key(Table.META, b"d", b"a") == b"c"
