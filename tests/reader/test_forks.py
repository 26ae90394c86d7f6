"""The store that readers of a process share: forks, signals, and processes that take a reader."""

import ctypes
import fcntl
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from types import FrameType

import pytest

import modelfs
from modelfs.errors import StoreBusy
from modelfs.reader import open_stores
from modelfs.reader.connection import Connection
from modelfs.store import exclusion
from modelfs.store.disk.directory import Directory
from modelfs.store.files.read_runs import ReadRun
from modelfs.store.folder import lock
from modelfs.store.index import environment
from modelfs.store.store import Store
from tests.support.connections import (
    DATA,
    SECONDS,
    SIZE,
    bytes_of,
    file_of,
    in_child,
    must_read,
    opened_below,
    size_of,
)
from tests.support.mounts import wait_until
from tests.support.writer_process import writer_of

pytestmark = pytest.mark.usefixtures("one_file")


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
    monkeypatch.setattr(open_stores, "ATTEMPTS_MAX", 2)
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
        lock(Directory(path), fcntl.LOCK_EX).close()
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


def test_ctrl_c_leaves_nothing_locked(
    path: Path, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a call is interrupted, later ones work, forks do, and closing closes."""
    # That of pytest keeps the frames of an interrupt that Python ignores, and so the store.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)

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
    package = str(Path(modelfs.__file__).parent)
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
            threads.append(threading.Thread(target=store.index.rows.reopen))
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
        pinned = store.index.rows.pinned()
        pinned.__enter__()
        transaction = store.index.environment.transaction()
        transaction.__enter__()
        kept.extend((pinned, transaction))  # as the traceback of an error does
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connection.read(plan)
    assert not connection.call(lambda store: store).index.rows.in_transaction()
    assert not places(path, os.getpid())
    must_read(connection)
    kept.clear()
    must_read(connection)


def test_a_call_inside_a_call(connection: Connection) -> None:
    """As in a signal handler: the inner one leaves the outer one's transaction alone."""

    def outer(store: Store) -> int:
        before = store.index.rows.snapshot_id()
        must_read(connection)
        assert store.index.rows.snapshot_id() == before
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


def test_a_handler_that_opens_a_reader_while_a_thread_forks(
    path: Path, connection: Connection
) -> None:
    """The fork waits for the handler's transaction, and the handler for the open stores."""
    forks: list[int] = []
    opened: list[int] = []
    forker = threading.Timer(0.05, lambda: forks.append(in_child(lambda: must_read(connection))))

    def open_another(*_: object) -> None:
        with modelfs.open(path) as reader:
            opened.append(reader["file"].size)

    def long(store: Store) -> int:
        forker.start()
        time.sleep(0.5)  # the handler comes meanwhile
        return size_of(store)

    before = signal.signal(signal.SIGALRM, open_another)
    guard = threading.Timer(SECONDS, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    guard.start()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        assert connection.call(long) == SIZE
    finally:
        signal.signal(signal.SIGALRM, before)
        guard.cancel()
    forker.join(SECONDS)
    assert (forks, opened) == ([0], [SIZE])
