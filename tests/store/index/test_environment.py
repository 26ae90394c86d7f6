"""The LMDB environment: full maps, MDB_PANIC, and files cut short."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import lmdb
import pytest

from modelfs.errors import CorruptIndex, StoreFull
from modelfs.store.index.index import Index
from modelfs.store.index.tables import Table


class Stubborn:
    """Stands for LMDB's environment; the given calls fail until it is closed."""

    def __init__(self, real: lmdb.Environment, **failures: lmdb.Error) -> None:
        self._real = real
        self._failures = failures

    def __getattr__(self, name: str) -> object:
        if name not in self._failures:
            return getattr(self._real, name)

        def fail(*_: object, **__: object) -> None:
            raise self._failures[name]

        return fail


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path)
    put(index, b"a", b"1")
    yield index
    index.close()


def put(index: Index, key: bytes, value: bytes) -> None:
    with index.change():
        index.put(Table.META, key, value)
    index.commit()


def fail(index: Index, **failures: lmdb.Error) -> None:
    environment = index._env
    assert environment._env is not None
    environment._env = cast("lmdb.Environment", Stubborn(environment._env, **failures))


def failure(code: int) -> lmdb.Error:
    return cast("lmdb.Error", type("Failed", (lmdb.Error,), {"code": code})("told to fail"))


def test_a_full_map_grows(tmp_path: Path) -> None:
    """A commit that does not fit makes the map larger, as often as necessary."""
    index = Index(tmp_path, map_size=1 << 18)
    put(index, b"large", bytes(4 << 20))
    assert index.get(Table.META, b"large") == bytes(4 << 20)
    index.close()
    again = Index(tmp_path, map_size=1 << 18)
    assert again.get(Table.META, b"large") == bytes(4 << 20)
    again.close()


def test_a_map_that_cannot_grow_is_store_full(tmp_path: Path) -> None:
    """Without address space a commit is refused whole; deletes, and later puts, succeed."""
    index = Index(tmp_path, map_size=1 << 18)
    put(index, b"small", b"x")
    fail(index, set_mapsize=lmdb.MemoryError("told to fail"))
    with pytest.raises(StoreFull):
        put(index, b"large", bytes(1 << 20))
    assert index.dirty
    assert index.get(Table.META, b"large") == bytes(1 << 20)
    with index.change():
        index.delete(Table.META, b"large")
    index.commit()
    assert list(index.pages(Table.META)) == [(b"small", b"x")]
    index.close()


def test_the_environment_recovers_from_a_panic(index: Index) -> None:
    """After MDB_PANIC the environment is opened again."""
    fail(index, begin=lmdb.PanicError("told to fail"))
    assert index.get(Table.META, b"a") == b"1"
    fail(index, begin=lmdb.PanicError("told to fail"))
    put(index, b"b", b"2")
    assert list(index.pages(Table.META)) == [(b"a", b"1"), (b"b", b"2")]


def test_a_panic_waits_for_transactions(index: Index) -> None:
    """The environment is not closed during another thread's transaction."""
    inside, go = threading.Event(), threading.Event()
    values: list[bytes | None] = []

    def reader() -> None:
        with index._env.transaction() as transaction:
            inside.set()
            go.wait(20)
            values.append(transaction.get(b"a", db=index._env.database(Table.META)))

    def another() -> None:
        values.append(index.get(Table.META, b"a"))

    threads = [threading.Thread(target=reader), threading.Thread(target=another)]
    threads[0].start()
    assert inside.wait(20)
    fail(index, begin=lmdb.PanicError("told to fail"))
    threads[1].start()
    threads[1].join(0.05)
    assert not values
    go.set()
    for thread in threads:
        thread.join(20)
    assert values == [b"1", b"1"]


def test_a_disk_that_fails_at_reopening(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every access raises EIO until the environment can be opened again."""
    with monkeypatch.context() as patch:
        fail(index, begin=lmdb.PanicError("told to fail"))

        def broken(*_: object, **__: object) -> None:
            raise failure(errno.EIO)

        patch.setattr(lmdb, "open", broken)
        for _ in range(2):
            with pytest.raises(OSError, match="told to fail") as caught:
                index.get(Table.META, b"a")
            assert caught.value.errno == errno.EIO
    assert index.get(Table.META, b"a") == b"1"


@pytest.mark.parametrize(
    ("code", "wanted"),
    [(errno.ENOSPC, StoreFull), (errno.EIO, OSError), (-30797, CorruptIndex)],
)
def test_errors_of_lmdb_are_translated(index: Index, code: int, wanted: type[Exception]) -> None:
    """A full disk is StoreFull, a failed system call OSError, LMDB's own error damage."""
    fail(index, begin=failure(code))
    with pytest.raises(wanted):
        index.apply({})
    with pytest.raises(wanted):
        index.get(Table.META, b"a")


@pytest.mark.parametrize("read_only", [True, False], ids=["read-only", "writable"])
def test_an_index_cut_short_is_refused(tmp_path: Path, *, read_only: bool) -> None:
    """A short file, whose reads would raise SIGBUS, is refused at opening."""
    index = Index(tmp_path)
    for number in range(3):
        put(index, b"%d" % number, bytes(1 << 20))
    index.close()
    os.truncate(tmp_path / "data.mdb", 1 << 20)
    with pytest.raises(CorruptIndex, match="cut short"):
        Index(tmp_path, read_only=read_only)


def blocks(folder: Path) -> int:
    return (folder / "data.mdb").stat().st_blocks * 512
