"""A new data file in the place of an old one."""

from pathlib import Path

import pytest

from modelfs.store.index import rebuild
from modelfs.store.index.index import Index
from modelfs.store.index.rebuild import replace_data_file, write_new
from modelfs.store.index.tables import Table
from tests.support.small_index import put

ROWS = {
    Table.META: [(b"a", b"2"), (b"b", bytes(9000))],
    Table.CHUNKS: [(b"%08d" % number, bytes(80)) for number in range(1000)],
}


def rows_of(folder: Path) -> dict[Table, list[tuple[bytes, bytes]]]:
    """Return the rows of an index that are in tables with rows."""
    index = Index(folder)
    rows = {table: list(index.pages(table)) for table in Table}
    index.close()
    return {table: found for table, found in rows.items() if found}


def test_the_new_file_has_the_rows(index: Index, tmp_path: Path) -> None:
    """After the replacement the index has these rows and no others, and nothing is left over."""
    index.close()
    assert write_new(tmp_path, ROWS) == 1002
    replace_data_file(tmp_path)
    assert rows_of(tmp_path) == ROWS
    assert {path.name for path in tmp_path.iterdir()} == {"data.mdb", "lock.mdb"}


@pytest.mark.parametrize("step", range(4))
def test_an_interrupted_replacement(
    index: Index, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash at any step leaves the old rows or the new ones, and it can be done again."""
    index.close()
    write_new(tmp_path, ROWS)
    steps = 0

    def sync(path: Path) -> None:
        nonlocal steps
        if steps == step:
            raise KeyboardInterrupt
        steps += 1

    with monkeypatch.context() as patch:
        patch.setattr(rebuild, "_sync", sync)
        if step < 2:
            with pytest.raises(KeyboardInterrupt):
                replace_data_file(tmp_path)
        elif step == 2:
            patch.setattr(rebuild, "remove_new", sync)
            with pytest.raises(KeyboardInterrupt):
                replace_data_file(tmp_path)
    old = {Table.META: [(b"a", b"1")]}
    assert rows_of(tmp_path) == (ROWS if step in (1, 2) else old)
    write_new(tmp_path, ROWS)
    replace_data_file(tmp_path)
    assert rows_of(tmp_path) == ROWS


def test_a_new_file_of_a_crash_is_written_again(index: Index, tmp_path: Path) -> None:
    """Half of a new file hinders no later one."""
    index.close()
    write_new(tmp_path, {})
    assert rows_of(tmp_path) == {Table.META: [(b"a", b"1")]}
    write_new(tmp_path, ROWS)
    replace_data_file(tmp_path)
    assert rows_of(tmp_path) == ROWS


def test_a_writer_goes_on(tmp_path: Path) -> None:
    """Commits work in the new file as in any other, though the lock file was of the old one."""
    index = Index(tmp_path)
    for number in range(30):
        put(index, b"a", b"%d" % number)
    index.close()
    write_new(tmp_path, ROWS)
    replace_data_file(tmp_path)
    index = Index(tmp_path)
    put(index, b"c", b"3")
    index.close()
    assert rows_of(tmp_path)[Table.META] == [*ROWS[Table.META], (b"c", b"3")]
