"""The store that readers of a process share: commits, threads, and the end of a reader."""

import pickle
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from modelfs.errors import CorruptChunk, NotAStore, StoreBusy, UnsupportedFormat
from modelfs.reader.connection import PLANS_MAX, Connection, Plan
from modelfs.store.create import create_store
from modelfs.store.files.content import ReadRun
from modelfs.store.folder import FORMAT_TEXT
from modelfs.store.index.records import FORMAT_VERSION
from modelfs.store.store import Store
from tests.support.connections import (
    DATA,
    SECONDS,
    SIZE,
    bytes_of,
    closing_connection,
    file_of,
    in_child,
    must_read,
    open_files,
    opened_below,
    size_of,
)
from tests.support.interruptions import at_point
from tests.support.stores import CHUNK, noise, stored_file
from tests.support.writer_process import writer_of

pytestmark = pytest.mark.usefixtures("one_file")


# -- commits


def test_a_call_sees_one_commit(path: Path, connection: Connection) -> None:
    """A writer may commit during a call; the call sees the commit that it began with."""
    with writer_of(path) as writer:

        def twice(store: Store) -> tuple[int, int]:
            before = size_of(store)
            writer("store.writes.truncate(2, 10); store.flush(2); store.commit()")
            return before, size_of(store)

        assert connection.call(twice) == (SIZE, SIZE)
        assert connection.call(size_of) == 10


def test_each_call_sees_the_last_commit(path: Path, connection: Connection) -> None:
    """Staged bytes show when they are committed, and so does what ingest makes of them."""
    with writer_of(path) as writer:
        for size in (100, 5000, 300_000):
            writer(f"store.writes.write(2, {SIZE}, noise({size}, {size})); store.flush(2)")
            before = connection.read(bytes_of(SIZE, 1 << 30))
            writer("store.commit()")
            assert connection.read(bytes_of(SIZE, 1 << 30)) == noise(size, size) != before
            writer("ingest_all(store)")
            assert connection.read(bytes_of(SIZE, 1 << 30)) == noise(size, size)


def test_calls_do_not_wait_for_each_other(connection: Connection) -> None:
    """A call that takes long, such as a report, keeps no other from the index."""
    inside, go = threading.Event(), threading.Event()

    def long(store: Store) -> int:
        inside.set()
        assert go.wait(SECONDS)
        return size_of(store)

    thread = threading.Thread(target=connection.call, args=(long,))
    thread.start()
    assert inside.wait(SECONDS)
    assert connection.read(bytes_of(0, 10)) == DATA[:10]
    go.set()
    thread.join(SECONDS)


# -- what changes between plan and read


def planned_before(event: Callable[[], None], *, always: bool = False) -> tuple[Plan, list[int]]:
    """Return a plan after which something happens, the first time or always; and how often."""
    plans: list[int] = []

    def plan(store: Store) -> list[ReadRun]:
        runs = store.contents.plan(file_of(store), 0, SIZE)
        if always or not plans:
            event()
        plans.append(len(runs))
        return runs

    return plan, plans


def test_gc_moves_chunks_between_plan_and_read(path: Path, connection: Connection) -> None:
    """Chunks are followed to where they are, though their old pack is gone."""
    (pack,) = (path / "packs").iterdir()
    with writer_of(path) as writer:
        writer("stored_file(store, b'garbage', noise(4 << 20, 9))")

        def collect() -> None:
            writer("drain(store.orphans.remove(store.namespace.unlink(1, b'garbage')))")
            writer("store.commit(); collect(store, 1.0); store.commit()")

        plan, plans = planned_before(collect)
        assert connection.read(plan) == DATA
        assert not pack.exists(), "nothing was moved"
        assert len(plans) == 1


@pytest.mark.parametrize(
    "change",
    [
        "store.writes.truncate(2, 0)",
        "store.writes.truncate(2, 0); store.writes.write(2, 0, noise(SIZE, 5))",
        "store.writes.write(2, 0, noise(SIZE, 6)); ingest_all(store)",
    ],
)
def test_a_file_changes_between_plan_and_read(
    path: Path, connection: Connection, change: str
) -> None:
    """The old content or the new one is read; no mixture."""
    with writer_of(path) as writer:
        code = f"SIZE = {SIZE}; {change}; store.flush(2); store.commit(); ingest_all(store); "
        plan, _ = planned_before(lambda: writer(code + "collect(store, 1.0); store.commit()"))
        buffer = bytearray(SIZE)
        size = connection.read_into(plan, memoryview(buffer))
        assert buffer[:size] in (DATA, connection.read(bytes_of()))


def test_staged_bytes_are_ingested_between_plan_and_read(
    path: Path, connection: Connection
) -> None:
    """A staging file that was planned, or is about to be, may be deleted meanwhile."""
    with writer_of(path) as writer:
        writer(f"store.writes.write(2, 0, noise({SIZE}, 5)); store.flush(2); store.commit()")
        plan, _ = planned_before(lambda: writer("ingest_all(store)"))
        assert connection.read(plan) == noise(SIZE, 5)
        writer(f"store.writes.write(2, 0, noise({SIZE}, 6)); store.flush(2); store.commit()")
        plans: list[int] = []

        def ingested_first(store: Store) -> list[ReadRun]:
            if not plans:
                writer("ingest_all(store)")
            plans.append(1)
            return store.contents.plan(file_of(store), 0, SIZE)

        assert connection.read(ingested_first) == noise(SIZE, 6)
        assert len(plans) == 2


def test_damage_is_reported_however_busy_the_writer_is(path: Path, connection: Connection) -> None:
    """A commit during each attempt is no reason to try for ever."""
    pack_path_of(path).write_bytes(b"")
    with writer_of(path) as writer:
        numbers = iter(range(1000))

        def commit() -> None:
            writer(f"new_file(store, b'{next(numbers)}'); store.commit()")

        plan, plans = planned_before(commit, always=True)
        with pytest.raises(CorruptChunk, match="pack 1 ends"):
            connection.read(plan)
        assert len(plans) == PLANS_MAX
    remake(path)


def test_plans_have_an_end_whatever_the_error_is(path: Path, connection: Connection) -> None:
    """Also if each attempt fails in another way, and a commit was made during each."""
    plans: list[int] = []

    def plan(_: Store) -> list[ReadRun]:
        plans.append(1)
        assert len(plans) < 100
        writer(f"new_file(store, b'{len(plans)}'); store.commit()")
        raise CorruptChunk(len(plans), "damaged in another way")

    with writer_of(path) as writer, pytest.raises(CorruptChunk):
        connection.read(plan)
    assert len(plans) == PLANS_MAX


def test_damage_is_reported_at_once_without_a_writer(path: Path, connection: Connection) -> None:
    """Nothing is tried again if nothing was committed."""
    pack_path_of(path).write_bytes(b"")
    plan, plans = planned_before(lambda: None)
    with pytest.raises(CorruptChunk):
        connection.read(plan)
    assert len(plans) == 1
    remake(path)


def pack_path_of(path: Path) -> Path:
    (pack,) = (path / "packs").iterdir()
    return pack


def remake(path: Path) -> None:
    shutil.rmtree(path)
    create_store(path)


# -- open and closed


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


def test_a_closed_connection_is_no_use(connection: Connection) -> None:
    """Closing twice is closing once, and every call raises an error."""
    connection.close()
    connection.close()
    for call in (
        lambda: connection.call(size_of),
        lambda: connection.read(bytes_of()),
        lambda: connection.read_into(bytes_of(), memoryview(bytearray(SIZE))),
    ):
        with pytest.raises(ValueError, match="is closed"):
            call()


def test_calls_under_way_end_as_if_it_were_open(path: Path) -> None:
    """The store is closed when the last of them has ended."""
    connection = Connection(path)
    inside, go = threading.Event(), threading.Event()
    results: list[int] = []

    def long(store: Store) -> int:
        inside.set()
        assert go.wait(SECONDS)
        return size_of(store)

    thread = threading.Thread(target=lambda: results.append(connection.call(long)))
    thread.start()
    assert inside.wait(SECONDS)
    connection.close()
    with closing_connection(path) as another:
        assert another.read(bytes_of()) == DATA  # the same store
    go.set()
    thread.join(SECONDS)
    assert results == [SIZE]
    assert opened_below(path) == []


def test_closing_while_threads_read(path: Path) -> None:
    """Each call returns the right bytes, or raises that the connection is closed."""
    for _ in range(20):
        connection = Connection(path)
        errors: list[BaseException] = []

        def work(connection: Connection = connection, errors: list[BaseException] = errors) -> None:
            try:
                while True:
                    assert connection.read(bytes_of()) == DATA
            except ValueError:
                return
            except BaseException as exc:
                errors.append(exc)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        connection.close()
        for thread in threads:
            thread.join(SECONDS)
        assert errors == []
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


def test_packs_are_not_kept_open(path: Path, connection: Connection) -> None:
    """Between calls a reader keeps no disk space of a pack that is deleted."""
    assert connection.read(bytes_of()) == DATA
    assert [name for name in opened_below(path) if "/packs/" in name] == []


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


def test_a_read_in_the_middle_of_a_read(path: Path, connection: Connection) -> None:
    """A signal handler, on the same thread, neither waits for the read nor changes its result."""
    modules = "verified.py", "extent_cache.py", "descriptors.py", "memtable.py", "cache.py"
    results: list[tuple[bytes, list[str]]] = []
    inner: list[bytes] = []
    plan = bytes_of(0, 5 * CHUNK)
    must_read(connection)

    def read_often() -> None:
        places = ["first"]
        while places:
            if (shared := connection._shared) is not None:
                shared.store.chunk_reader._verified._verified.clear()
            with at_point(
                len(results), lambda: inner.append(connection.read(plan)), *modules
            ) as places:
                results.append((connection.read(plan), places))

    thread = threading.Thread(target=read_often, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), results[-1:]
    assert len(inner) > 100
    assert {data for data, _ in results} | set(inner) == {DATA[: 5 * CHUNK]}
