"""The store that readers of a process share: commits, threads, forks, and who closes it."""

import ctypes
import fcntl
import gc
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import FrameType

import pytest

from modelfs import connection as connection_module
from modelfs.connection import PLANS_MAX, Connection, Plan
from modelfs.errors import CorruptChunk, NotAStore, StoreBusy, UnsupportedFormat
from modelfs.store import exclusion
from modelfs.store.create import create_store
from modelfs.store.files.content import ReadRun
from modelfs.store.folder import FORMAT_TEXT, lock
from modelfs.store.index import environment
from modelfs.store.index.records import FORMAT_VERSION
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store
from tests.support.mounts import wait_until
from tests.support.stores import check_closed, new_store, noise, stored_file
from tests.support.writer_process import writer_of

SIZE = 3 << 20
DATA = noise(SIZE)
SECONDS = 20.0


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A store with one file, `file`, closed; sound after the test."""
    path = new_store(tmp_path)
    with Store(path) as store:
        stored_file(store, b"file", DATA)
    yield path
    gc.collect()
    assert check_closed(path) == []


@pytest.fixture
def connection(path: Path) -> Iterator[Connection]:
    connection = Connection(path)
    yield connection
    connection.close()


def size_of(store: Store) -> int:
    return store.contents.node(file_of(store)).size


def file_of(store: Store) -> InodeNumber:
    return store.namespace.lookup(ROOT, b"file")


def bytes_of(offset: int = 0, size: int = SIZE) -> Plan:
    return lambda store: store.contents.plan(file_of(store), offset, size)


def open_files() -> list[str]:
    found: list[str] = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(found)


def opened_below(path: Path) -> list[str]:
    return [name for name in open_files() if name.startswith(str(path))]


@contextmanager
def reading(connection: Connection, threads: int = 3) -> Iterator[None]:
    """Have threads read all the while, and compare."""
    stop, errors = threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            while not stop.is_set():
                assert connection.read(bytes_of()) == DATA
        except BaseException as exc:
            errors.append(exc)

    started = [threading.Thread(target=work) for _ in range(threads)]
    for thread in started:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in started:
            thread.join(SECONDS)
    assert errors == []


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
    assert len(opened_below(path)) == 2
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


@contextmanager
def closing_connection(path: Path) -> Iterator[Connection]:
    connection = Connection(path)
    try:
        yield connection
    finally:
        connection.close()


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
    assert [name for name in opened_below(path) if "/index/" not in name] == []


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


# -- forks


def in_child(call: Callable[[], object]) -> int:
    """Fork, call something in the child, and return its exit code: 0 if that did not raise."""
    child = os.fork()
    if not child:
        code = 1
        try:
            call()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def must_read(connection: Connection) -> None:
    assert connection.read(bytes_of()) == DATA


def test_both_sides_of_a_fork_read(path: Path, connection: Connection) -> None:
    """Parent, child and grandchild see the last commit, and close as they like."""

    def child() -> None:
        must_read(connection)
        assert in_child(lambda: must_read(connection)) == 0
        connection.close()
        assert opened_below(path) == []

    must_read(connection)
    for _ in range(20):
        assert in_child(child) == 0
        must_read(connection)
    with writer_of(path) as writer:
        writer("store.writes.truncate(2, 10); store.flush(2); store.commit()")
        assert in_child(lambda: size_is(connection, 10)) == 0
        size_is(connection, 10)


def size_is(connection: Connection, size: int) -> None:
    assert connection.call(size_of) == size


def test_forks_while_threads_read(connection: Connection) -> None:
    """A fork waits for transactions, however many threads have one after the other."""
    with reading(connection):
        for _ in range(30):
            begun = time.monotonic()
            assert in_child(lambda: must_read(connection)) == 0
            assert time.monotonic() - begun < SECONDS


def test_threads_fork(connection: Connection) -> None:
    """Any thread may fork, several at a time."""
    codes: list[int] = []

    def fork() -> None:
        codes.extend(in_child(lambda: must_read(connection)) for _ in range(5))

    with reading(connection, threads=2):
        threads = [threading.Thread(target=fork) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * SECONDS)
    assert codes == [0] * 15


def test_a_fork_waits_for_the_transactions_of_others(connection: Connection) -> None:
    """LMDB must not be closed under them, nor may a child free their places."""
    inside, go, forked = threading.Event(), threading.Event(), threading.Event()
    sizes: list[int] = []

    def long(store: Store) -> int:
        inside.set()
        assert go.wait(SECONDS)
        return size_of(store)

    def fork() -> None:
        assert in_child(lambda: must_read(connection)) == 0
        forked.set()

    threads = [
        threading.Thread(target=lambda: sizes.append(connection.call(long))),
        threading.Thread(target=fork),
    ]
    threads[0].start()
    assert inside.wait(SECONDS)
    threads[1].start()
    assert not forked.wait(0.1)
    go.set()
    assert forked.wait(SECONDS)
    for thread in threads:
        thread.join(SECONDS)
    assert sizes == [SIZE]


def test_a_fork_waits_for_that_of_another_thread(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that one waits for a transaction: waiting is no failed attempt."""
    monkeypatch.setattr(connection_module, "ATTEMPTS_MAX", 2)
    must_read(connection)
    codes: list[int] = []

    def fork() -> None:
        codes.append(in_child(lambda: must_read(connection)))

    threads = [threading.Thread(target=fork) for _ in range(3)]
    with long_call(connection):
        for thread in threads:
            thread.start()
        threads[0].join(0.1)
        assert codes == []
    for thread in threads:
        thread.join(SECONDS)
    assert codes == [0, 0, 0]


@contextmanager
def slow_read(connection: Connection) -> Iterator[None]:
    """A thread that reads bytes for as long as the block takes, and gets the right ones."""
    inside, go = threading.Event(), threading.Event()
    results: list[object] = []

    def slow(store: Store, runs: list[ReadRun]) -> object:
        inside.set()
        assert go.wait(SECONDS)
        return store.contents.gather(runs)

    thread = threading.Thread(
        target=lambda: results.append(connection._carry_out(bytes_of(), slow))
    )
    thread.start()
    assert inside.wait(SECONDS)
    try:
        yield
    finally:
        go.set()
        thread.join(SECONDS)
    assert results == [DATA]


def test_a_fork_does_not_wait_for_reads_of_bytes(connection: Connection) -> None:
    """A thread may read for minutes."""
    with slow_read(connection):
        assert in_child(lambda: must_read(connection)) == 0


def test_a_fork_inherits_no_lock(
    path: Path, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without slots, a thread locks out writers for its call, but not for the life of a child."""
    monkeypatch.setattr(exclusion, "may_lock", lambda _: False)
    monkeypatch.setattr(environment, "may_lock", lambda _: False)
    child = 0
    try:
        with slow_read(connection):
            child = os.fork()
            if not child:
                time.sleep(SECONDS)
                os._exit(0)
            assert is_locked_out(path)
        assert not is_locked_out(path)
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def is_locked_out(path: Path) -> bool:
    try:
        lock(path, fcntl.LOCK_EX).close()
    except StoreBusy:
        return True
    return False


def test_a_revoked_permission(
    path: Path, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that had slots is never opened without them: no writer is excluded then."""
    must_read(connection)
    monkeypatch.setattr(environment, "may_lock", lambda _: False)
    assert in_child(lambda: None) == 0
    must_read(connection)
    assert connection.call(lambda _: places(path, os.getpid()))


@pytest.mark.parametrize("where", ["plan", "read"])
def test_a_fork_inside_a_call(connection: Connection, where: str) -> None:
    """A call inside which its thread forks goes on, in the parent and in the child."""
    children: list[int] = []

    def fork(at: str) -> None:
        if at == where and not children:
            children.append(os.fork())

    def plan(store: Store) -> list[ReadRun]:
        fork("plan")
        return store.contents.plan(file_of(store), 0, SIZE)

    def read(store: Store, runs: list[ReadRun]) -> bytes:
        fork("read")
        return store.contents.gather(runs)

    good = False
    try:
        good = connection._carry_out(plan, read) == DATA
        good = good and connection.read(bytes_of()) == DATA
    finally:
        if children == [0]:
            os._exit(0 if good else 1)
    assert good
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


def test_a_signal_handler_forks(connection: Connection) -> None:
    """Wherever it comes, nothing waits for itself."""
    codes: list[int] = []

    def fork(_: int, __: FrameType | None) -> None:
        codes.append(in_child(lambda: None))

    before = signal.signal(signal.SIGALRM, fork)
    try:
        while len(codes) < 40:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 2e-3))
            must_read(connection)
            connection.call(size_of)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert codes == [0] * len(codes)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_leaves_nothing_locked(path: Path, connection: Connection) -> None:
    """Wherever a call is interrupted, later ones work, forks do, and closing closes."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    interrupted = 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        while interrupted < 200:
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 2e-3))
                # Not for ever: Python ignores an interrupt inside callbacks of its collector.
                for _ in range(1000):
                    connection.read(bytes_of())
                    connection.call(size_of)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    must_read(connection)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(in_child(lambda: must_read(connection))))
    thread.start()  # its fork waits for transactions that the main thread left behind, if any
    thread.join(SECONDS)
    assert codes == [0]
    assert in_child(lambda: must_read(connection)) == 0
    with writer_of(path) as writer:
        writer("new_file(store, b'more'); store.commit()")
    connection.close()
    assert opened_below(path) == []


@contextmanager
def long_call(connection: Connection) -> Iterator[threading.Event]:
    """A thread that is inside a transaction until the event is set, or the block ends."""
    inside, go = threading.Event(), threading.Event()
    sizes: list[int] = []

    def long(store: Store) -> int:
        inside.set()
        assert go.wait(SECONDS)
        return size_of(store)

    thread = threading.Thread(target=lambda: sizes.append(connection.call(long)))
    thread.start()
    assert inside.wait(SECONDS)
    try:
        yield go
    finally:
        go.set()
        thread.join(SECONDS)
    assert sizes == [SIZE]


@contextmanager
def interrupting(seconds: float, interval: float = 0.0) -> Iterator[list[int]]:
    """Interrupt this thread after some time, and then at each interval; yield the interrupts.

    Only in modules of the package: of the hooks of a fork, those of `logging` do not bear it.
    """
    package = str(Path(connection_module.__file__).parent)
    interrupts: list[int] = []

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        while frame is not None and not frame.f_code.co_filename.startswith(package):
            frame = frame.f_back
        if frame is not None:
            interrupts.append(signal_number)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, interval)
        yield interrupts
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("interval", [0.0, 0.003], ids=["once", "often"])
def test_ctrl_c_while_a_fork_waits(connection: Connection, interval: float) -> None:
    """The fork waits to its end all the same: parent, child and other threads read."""
    must_read(connection)
    codes: list[int] = []
    with long_call(connection) as go:
        threading.Timer(0.2, go.set).start()
        with interrupting(0.05, interval) as interrupts:
            child = os.fork()
        if not child:
            code = 1
            try:
                must_read(connection)
                code = 0
            finally:
                os._exit(code)
        assert interrupts
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    must_read(connection)
    thread = threading.Thread(target=lambda: codes.append(in_child(lambda: must_read(connection))))
    thread.start()
    thread.join(SECONDS)
    assert codes == [0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_from_another_thread_while_a_fork_waits(connection: Connection) -> None:
    """As debuggers and test runners raise it in a thread: the fork waits to its end."""
    must_read(connection)
    codes: list[int] = []
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def fork() -> None:
        with suppress(TimeoutError):
            codes.append(in_child(lambda: must_read(connection)))

    thread = threading.Thread(target=fork)
    with long_call(connection):
        thread.start()
        time.sleep(0.05)
        assert raise_in(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(TimeoutError)) == 1
        thread.join(0.05)
        assert thread.is_alive()
    thread.join(SECONDS)
    assert codes == [0]
    must_read(connection)


def test_ctrl_c_while_slots_are_gained(
    path: Path, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening the index with slots waits for other calls; interrupted, it leaves it as it was."""
    with monkeypatch.context() as patch:
        patch.setattr(exclusion, "may_lock", lambda _: False)
        patch.setattr(environment, "may_lock", lambda _: False)
        must_read(connection)
    with long_call(connection):
        store = connection.call(lambda store: store)
        with interrupting(0.05), pytest.raises(KeyboardInterrupt):
            store.exclusion.gain_slots()
        must_read(connection)
    assert store.exclusion.gain_slots()
    del store
    must_read(connection)
    assert in_child(lambda: must_read(connection)) == 0
    with writer_of(path):
        must_read(connection)


def test_a_fork_in_a_handler_while_another_thread_drains(connection: Connection) -> None:
    """The fork ends the transaction that the other thread waits for, and waits for nothing."""
    must_read(connection)
    threads: list[threading.Thread] = []

    def plan(store: Store) -> int:
        if not threads:
            threads.append(threading.Thread(target=store.index.reopen))
            threads[0].start()
            threads[0].join(0.05)
            assert threads[0].is_alive()
            assert in_child(lambda: must_read(connection)) == 0
        return size_of(store)

    assert connection.call(plan) == SIZE
    threads[0].join(SECONDS)
    must_read(connection)


def test_transactions_that_ctrl_c_leaves_behind(path: Path, connection: Connection) -> None:
    """Ctrl-C may come where a transaction is about to end; the end of the call ends it."""
    kept: list[object] = []

    def plan(store: Store) -> list[ReadRun]:
        pinned = store.index.pinned()
        pinned.__enter__()
        transaction = store.index._env.transaction()
        transaction.__enter__()
        kept.extend((pinned, transaction))  # as the traceback of an error does
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connection.read(plan)
    assert not connection.call(lambda store: store).index.in_transaction()
    assert not places(path, os.getpid())
    must_read(connection)
    kept.clear()
    must_read(connection)


def test_a_call_inside_a_call(connection: Connection) -> None:
    """As in a signal handler: the inner one leaves the outer one's transaction alone."""

    def outer(store: Store) -> int:
        before = store.index.snapshot_id()
        must_read(connection)
        assert store.index.snapshot_id() == before
        return size_of(store)

    assert connection.call(outer) == SIZE


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_pools_of_processes(connection: Connection, method: str) -> None:
    """A connection is handed to workers of every kind."""
    with get_context(method).Pool(2) as pool:
        assert pool.map(read_sum, [connection] * 6) == [sum(DATA)] * 6
    must_read(connection)


def read_sum(connection: Connection) -> int:
    return sum(connection.read(bytes_of()))


def test_a_pickle_is_the_path(path: Path, connection: Connection) -> None:
    """Unpickling opens nothing, and the first call does."""
    made = pickle.dumps(connection)
    assert len(made) < 200 + len(str(path))
    loaded: Connection = pickle.loads(made)
    must_read(loaded)
    connection.close()
    must_read(loaded)
    loaded.close()
    assert opened_below(path) == []


def test_killed_children_do_not_matter(path: Path, connection: Connection) -> None:
    """A worker that is killed inside a transaction keeps no page of the index for ever."""
    child = os.fork()
    if not child:
        connection.call(lambda _: time.sleep(SECONDS))
        os._exit(0)
    with writer_of(path) as writer:
        wait_until(lambda: places(path, child))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        writer("new_file(store, b'one'); store.commit()")
        assert not places(path, child)


def places(path: Path, process: int) -> bool:
    """Whether a process reads a snapshot, by LMDB's lock file as another process sees it."""
    code = "import lmdb, sys; print(lmdb.open(sys.argv[1], readonly=True, create=False).readers())"
    done = subprocess.run(
        [sys.executable, "-c", code, path / "index"], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    return any(f" {process} " in line and not line.endswith(" -") for line in lines)
