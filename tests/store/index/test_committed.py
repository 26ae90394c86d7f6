"""The committed rows of an index, as LMDB has them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.errors import CorruptIndex
from modelfs.store.disk.directory import Directory
from modelfs.store.index.committed import FIRST_ROWS, CommittedRows
from modelfs.store.index.index import Index
from modelfs.store.index.memtable import ChangedRows
from modelfs.store.index.row_checksum import with_checksum
from modelfs.store.index.tables import Table
from tests.support.damaged_rows import flipped, raw_rows
from tests.support.stores import run_apart

TABLE = Table.XATTRS  # its decoders accept any value
ROWS = {b"a": b"1", b"b": b"", b"c": b"3"}
LAYERS = st.lists(
    st.dictionaries(st.sampled_from(sorted(ROWS)), st.none() | st.just(b"new")), max_size=2
)
# Gives each row a checksum.
UPGRADE = """
import sys
from pathlib import Path
from modelfs.store.index.row_checksum import with_checksum
from tests.support.damaged_rows import raw_rows
with raw_rows(Path(sys.argv[1])) as raw:
    for table, rows in raw.items():
        for key, value in rows.items():
            rows[key] = with_checksum(table, key, value)
"""


@contextmanager
def committed(folder: Path, *, read_only: bool = True) -> Iterator[CommittedRows]:
    """Open an index, and yield its committed rows."""
    index = Index(Directory(folder), read_only=read_only)
    try:
        yield index.rows
    finally:
        index.close()


def changed(rows: Mapping[bytes, bytes | None]) -> ChangedRows:
    changes = ChangedRows()
    for key, value in rows.items():
        changes.change(key, value)
    return changes


def write(folder: Path, rows: dict[bytes, bytes]) -> None:
    """Commit rows of the table, with checksums."""
    with committed(folder, read_only=False) as writer:
        writer.write({TABLE: changed(rows)})


def make_old(folder: Path, rows: dict[bytes, bytes]) -> None:
    """Make an index of a format without checksums."""
    write(folder, {})
    with raw_rows(folder) as raw:
        raw[TABLE].update(rows)
        for table, key, length in FIRST_ROWS:
            raw[table][key] = bytes(length)


@pytest.mark.parametrize("is_old", [False, True], ids=["with checksums", "without"])
def test_rows_come_back(tmp_path: Path, is_old: bool) -> None:
    """Rows with checksums and rows of older formats are returned as they were put."""
    (make_old if is_old else write)(tmp_path, ROWS)
    with committed(tmp_path) as rows:
        assert rows.get(TABLE, b"d") is None
        for key, value in ROWS.items():
            assert rows.get(TABLE, key) == rows.newest(TABLE, key) == value
            stored = rows.stored(TABLE, key)
            assert stored == (value if is_old else with_checksum(TABLE, key, value))
        assert dict(rows.page(TABLE, b"", b"z", 9, (), None)) == ROWS


def test_rows_of_an_older_format_stay_so(tmp_path: Path) -> None:
    """A commit to an index without checksums adds none: only an upgrade does, to all rows."""
    make_old(tmp_path, ROWS)
    write(tmp_path, {b"d": b"4"})
    with raw_rows(tmp_path) as raw:
        assert raw[TABLE] == ROWS | {b"d": b"4"}


def test_an_upgrade_by_another_process(tmp_path: Path) -> None:
    """The rows get checksums while a reader has the index open, and while it is pinned."""
    make_old(tmp_path, ROWS)
    with committed(tmp_path) as rows:
        with rows.pinned():
            assert rows.get(TABLE, b"a") == b"1"
            run_apart(UPGRADE, tmp_path)
            assert rows.stored(TABLE, b"c") == rows.get(TABLE, b"c") == b"3"
        assert dict(rows.page(TABLE, b"", b"z", 9, (), None)) == ROWS
        assert rows.stored(TABLE, b"c") == with_checksum(TABLE, b"c", b"3")


@given(
    low=st.binary(max_size=2),
    high=st.binary(max_size=2),
    limit=st.integers(0, 4),
    layers=LAYERS,
)
def test_a_page_is_a_part_of_the_table(
    low: bytes,
    high: bytes,
    limit: int,
    layers: list[dict[bytes, bytes | None]],
    shared: CommittedRows,
) -> None:
    """A page has the first rows of a range of keys, in order; the newest layer's value counts."""
    rows = hidden_by(layers).items()
    wanted = [(key, value) for key, value in rows if low <= key < high and value is not None]
    hiding = tuple(map(changed, layers))
    assert shared.page(TABLE, low, high, limit, hiding, None) == wanted[:limit]


@given(key=st.binary(min_size=1, max_size=2), low=st.binary(max_size=2), layers=LAYERS)
def test_the_floor_is_the_last_key(
    key: bytes, low: bytes, layers: list[dict[bytes, bytes | None]], shared: CommittedRows
) -> None:
    """The floor of a key is the last one in its bounds that no layer has deleted."""
    rows = hidden_by(layers).items()
    wanted = max(
        (one for one, value in rows if low <= one <= key and value is not None), default=None
    )
    assert shared.floor_key(TABLE, key, low, tuple(map(changed, layers))) == wanted


def hidden_by(layers: list[dict[bytes, bytes | None]]) -> dict[bytes, bytes | None]:
    """Return the rows of the table as layers of the memtable hide them, None if deleted."""
    hidden: dict[bytes, bytes | None] = {**ROWS}
    for layer in reversed(layers):
        hidden |= layer
    return hidden


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommittedRows]:
    """Rows that no test changes."""
    folder = tmp_path_factory.mktemp("index")
    write(folder, ROWS)
    with committed(folder) as rows:
        yield rows


def test_a_damaged_row_is_an_error_or_left_out(tmp_path: Path) -> None:
    """A row with another bit raises, or is collected by its key; others are returned."""
    write(tmp_path, ROWS)
    with raw_rows(tmp_path) as raw:
        raw[TABLE][b"b"] = stored = flipped(raw[TABLE][b"b"], 3)
    with committed(tmp_path) as rows:
        for read in (rows.get, rows.newest):
            with pytest.raises(CorruptIndex, match="62 does not match its checksum"):
                read(TABLE, b"b")
        with pytest.raises(CorruptIndex):
            rows.page(TABLE, b"", b"z", 9, (), None)
        damaged: set[bytes] = set()
        assert [key for key, _ in rows.page(TABLE, b"", b"z", 9, (), damaged)] == [b"a", b"c"]
        assert damaged == {b"b"}
        assert rows.stored(TABLE, b"b") == stored
        hiding = (changed({b"b": None}),)
        assert rows.page(TABLE, b"", b"z", 9, hiding, None) == [
            (b"a", b"1"),
            (b"c", b"3"),
        ]


def test_a_table_that_is_missing_is_empty(tmp_path: Path) -> None:
    """A read-only index of an older format may lack a table."""
    write(tmp_path, ROWS)
    with lmdb.open(str(tmp_path), max_dbs=len(Table)) as env:
        database = env.open_db(Table.LOST.value.encode())
        with env.begin(write=True) as transaction:
            transaction.drop(database)
    with committed(tmp_path) as rows:
        assert rows.get(Table.LOST, b"a") is rows.newest(Table.LOST, b"a") is None
        assert rows.stored(Table.LOST, b"a") is rows.floor_key(Table.LOST, b"a", b"") is None
        assert rows.page(Table.LOST, b"", b"z", 9, (), None) == []
