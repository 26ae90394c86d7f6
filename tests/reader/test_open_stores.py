"""The store that readers of a process share: opened once, and closed; its folder is replaced."""

import pickle
import shutil
from functools import partial
from pathlib import Path

import pytest

from modelfs.errors import NotAStore, StoreBusy, UnsupportedFormat
from modelfs.reader.connection import Connection
from modelfs.store.create import create_store
from modelfs.store.folder import FORMAT_TEXT
from modelfs.store.index.superblock import FORMAT_VERSION
from modelfs.store.store import Store
from tests.support.connections import (
    DATA,
    SIZE,
    bytes_of,
    closing_connection,
    in_child,
    must_read,
    open_files,
    opened_below,
    size_of,
)
from tests.support.stores import stored_file
from tests.support.writer_process import writer_of

pytestmark = pytest.mark.usefixtures("one_file")


def test_readers_of_a_folder_share_a_store(path: Path, tmp_path: Path) -> None:
    """LMDB is open once, whatever path a reader came by."""
    (tmp_path / "link").symlink_to(path)
    connections = [Connection(path), Connection(tmp_path / "link"), Connection(path)]
    stores = {id(connection.call(lambda store: store)) for connection in connections}
    assert len(stores) == 1
    assert len(opened_below(path)) == 6  # two files of the index, and four folders
    for connection in connections[1:]:
        connection.close()
    assert connections[0].read(bytes_of()) == DATA
    connections[0].close()
    assert opened_below(path) == []


def test_thousands_of_connections_leave_nothing_behind(path: Path) -> None:
    """A connection that was closed, or forgotten, leaves no file open."""
    before = open_files()
    for number in range(2000):
        connection = Connection(path)
        connection.call(size_of)
        if number % 2:
            connection.close()
    del connection
    with closing_connection(path):
        pass
    assert open_files() == before


def test_not_beside_a_writer_of_this_process(path: Path, connection: Connection) -> None:
    """LMDB is open once in a process: opening a store twice is an error."""
    with Store(path), pytest.raises(StoreBusy, match="open in this process already"):
        connection.call(size_of)
    assert connection.call(size_of) == SIZE
    with pytest.raises(StoreBusy, match="open in this process already"):
        Store(path)
    connection.close()
    with Store(path) as store:
        assert size_of(store) == SIZE


def test_the_folder_is_gone(path: Path, tmp_path: Path) -> None:
    """A folder without a store is an error at the call, and may get one later."""
    connection = Connection(tmp_path / "later")
    with pytest.raises(NotAStore, match="does not exist"):
        connection.call(size_of)
    path.rename(tmp_path / "later")
    assert connection.call(size_of) == SIZE
    connection.close()
    (tmp_path / "later").rename(path)


def test_a_store_is_replaced(path: Path, tmp_path: Path) -> None:
    """New connections see the store that is there now; old and pickled ones raise an error."""
    old = Connection(path)
    assert old.read(bytes_of()) == DATA
    pickled = pickle.dumps(old)
    path.rename(tmp_path / "aside")
    with pytest.raises(NotAStore, match="does not exist"):
        old.call(size_of)
    create_store(path, chunk_size=4096)
    with Store(path) as store:
        stored_file(store, b"file", b"new")
    with closing_connection(path) as new:
        assert new.read(bytes_of()) == b"new"
        for stale in (old, pickle.loads(pickled)):
            with pytest.raises(NotAStore, match="replaced by another store"):
                stale.call(size_of)
            assert in_child(partial(must_be_replaced, stale)) == 0
    old.close()


def must_be_replaced(connection: Connection) -> None:
    with pytest.raises(NotAStore, match="replaced by another store"):
        connection.call(size_of)


def test_a_store_is_replaced_by_its_copy(path: Path, tmp_path: Path) -> None:
    """A store that was put back from a backup is the same store: the next call opens it."""
    shutil.copytree(path, tmp_path / "backup")
    with closing_connection(path) as connection, closing_connection(path) as another:
        must_read(connection)
        must_read(another)
        path.rename(tmp_path / "aside")
        (tmp_path / "backup").rename(path)
        must_read(connection)
        assert connection.call(id) == another.call(id)
        shutil.rmtree(tmp_path / "aside")
        must_read(another)


def test_another_store_gets_the_same_index_number(path: Path, tmp_path: Path) -> None:
    """After a fork no file of the old store is open, so its number may return; its UUID cannot."""
    with closing_connection(path) as old, closing_connection(path) as another:
        must_read(old)
        must_read(another)
        assert in_child(lambda: None) == 0
        index = path / "index" / "data.mdb"
        create_store(tmp_path / "other", chunk_size=4096)
        with Store(tmp_path / "other") as store:
            stored_file(store, b"file", b"other")
        kept = index.read_bytes()
        shutil.copyfile(tmp_path / "other" / "index" / "data.mdb", index)
        with pytest.raises(NotAStore, match="replaced by another store"):
            old.call(size_of)
        with closing_connection(path) as new:
            assert new.call(size_of) == 5
            with pytest.raises(NotAStore, match="replaced by another store"):
                another.call(size_of)
            assert new.call(size_of) == 5
        index.write_bytes(kept)


def test_the_format_changes_under_a_reader(path: Path) -> None:
    """A daemon of a newer version upgrades the store: the reader opens it again, if it can."""
    set_version = "import dataclasses; block = dataclasses.replace(store.superblock, version={})\n"
    set_version += "with store.index.change(): store.index.put('meta', b'superblock', "
    set_version += "block.to_bytes())\nstore.commit()"
    with closing_connection(path) as connection, writer_of(path) as writer:
        writer(set_version.format(1))
        must_read(connection)
        assert connection.call(lambda store: store.superblock.version) == 1
        writer(set_version.format(FORMAT_VERSION))
        must_read(connection)
        text = (path / "FORMAT").read_text()
        (path / "FORMAT").write_text(FORMAT_TEXT.format(version=FORMAT_VERSION + 1))
        writer(set_version.format(FORMAT_VERSION + 1))
        with pytest.raises(UnsupportedFormat):
            connection.call(size_of)
        (path / "FORMAT").write_text(text)
        writer(set_version.format(FORMAT_VERSION))
        must_read(connection)
