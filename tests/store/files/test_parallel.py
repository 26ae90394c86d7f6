"""Long reads on several threads."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from modelfs.errors import CorruptChunk
from modelfs.store.chunks.single_flight import EMPLOYERS
from modelfs.store.files import parallel
from modelfs.store.files.content import Contents
from modelfs.store.files.read_runs import HoleRun, ReadRun
from modelfs.store.store import Store
from tests.support.stores import CHUNK, noise, overwrite, pack_path, stored_file

DATA = noise(50 * CHUNK)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reads of some chunks be long, on a machine of three processors."""
    monkeypatch.setattr(parallel, "PARALLEL_MIN", 3 * CHUNK)
    monkeypatch.setattr(parallel, "PIECE", 1000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3))


class Slow:
    """Contents that several threads must read at the same time."""

    def __init__(self, contents: Contents, count: int) -> None:
        self._contents = contents
        self._barrier = threading.Barrier(count)
        self.threads: set[int] = set()

    def fill(self, runs: list[ReadRun], into: memoryview) -> None:
        if threading.get_ident() not in self.threads:
            self.threads.add(threading.get_ident())
            self._barrier.wait(20)
        self._contents.fill(runs, into)


def test_threads_share_a_long_read(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long read takes a thread for each processor, up to a number; the caller's is one."""
    inode = stored_file(opened, b"f", DATA)
    for processors, expected in ((1, 1), (3, 3), (64, parallel.THREADS_MAX)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, count=processors: range(count))
        runs = opened.contents.plan(inode, 0, len(DATA))
        slow = Slow(opened.contents, expected)
        assert parallel.gather(slow, runs) == DATA  # type: ignore[arg-type]
        assert len(slow.threads) == expected
        assert threading.get_ident() in slow.threads
    assert not EMPLOYERS


def test_short_reads_take_one_thread(opened: Store) -> None:
    """To start others takes longer than the read."""
    inode = stored_file(opened, b"f", DATA)
    runs = opened.contents.plan(inode, 5, 3 * CHUNK - 1)
    slow = Slow(opened.contents, 1)
    into = memoryview(bytearray(3 * CHUNK - 1))
    parallel.fill(slow, runs, into)  # type: ignore[arg-type]
    assert into == DATA[5 : 3 * CHUNK + 4]
    assert len(slow.threads) == 1


def test_long_runs_are_divided(opened: Store) -> None:
    """Holes, and chunks that lie next to each other and were verified before."""
    inode = stored_file(opened, b"f", DATA)
    opened.writes.truncate(inode, 2 * len(DATA))
    opened.writes.write(inode, len(DATA) + 10, b"x" * 5)
    expected = (DATA + bytes(10) + b"x" * 5).ljust(2 * len(DATA), b"\0")
    for _ in range(2):  # the second time from runs of files
        runs = opened.contents.plan(inode, 3, len(expected))
        assert parallel.gather(opened.contents, runs) == expected[3:]
    dirty = memoryview(bytearray(b"y" * 4 * CHUNK))
    parallel.fill(opened.contents, [HoleRun(4 * CHUNK)], dirty)
    assert dirty == bytes(4 * CHUNK)


@pytest.mark.parametrize("make_error", [lambda: CorruptChunk(1, "told to"), KeyboardInterrupt])
def test_the_first_error_ends_all(opened: Store, make_error: Callable[[], BaseException]) -> None:
    """No thread is left, and nothing is written to the buffer afterwards."""
    inode = stored_file(opened, b"f", DATA)
    runs = opened.contents.plan(inode, 0, len(DATA))
    calls: list[int] = []

    class Failing:
        def fill(self, runs: list[ReadRun], into: memoryview) -> None:
            calls.append(1)
            if len(calls) == 5:
                raise make_error()

    with pytest.raises((CorruptChunk, KeyboardInterrupt)):
        parallel.gather(Failing(), runs)  # type: ignore[arg-type]
    assert len(calls) < 10
    assert not EMPLOYERS


def test_a_fork_during_a_read(opened: Store) -> None:
    """A signal handler may fork: the pieces of the other threads are done in the child, too."""
    inode = stored_file(opened, b"f", DATA)
    runs = opened.contents.plan(inode, 0, len(DATA))
    children: list[int] = []
    reading, forked = threading.Barrier(3), threading.Event()

    class Forking:
        def fill(self, runs: list[ReadRun], into: memoryview) -> None:
            if not children:
                reading.wait(20)
                if threading.current_thread() is threading.main_thread():
                    children.append(os.fork())
                    forked.set()
                assert forked.wait(20)
            opened.contents.fill(runs, into)

    good = False
    try:
        good = parallel.gather(Forking(), runs) == DATA  # type: ignore[arg-type]
    finally:
        if children == [0]:
            os._exit(0 if good else 1)
    assert good
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


def test_a_fork_while_helpers_start(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler may fork before a helper runs: the child does not wait for it."""
    inode = stored_file(opened, b"f", DATA)
    runs = opened.contents.plan(inode, 0, len(DATA))
    children: list[int] = []

    def start(help_out: Callable[[], None], _: tuple[()]) -> None:
        if not children:
            children.append(os.fork())  # after the system call, before the thread's first step
        if children != [0]:
            threading.Thread(target=help_out).start()

    monkeypatch.setattr(parallel, "start_new_thread", start)
    good = False
    try:
        good = parallel.gather(opened.contents, runs) == DATA
    finally:
        if children == [0]:
            os._exit(0 if good else 1)
    assert good
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


def test_damage(opened: Store) -> None:
    """It is found on whatever thread."""
    inode = stored_file(opened, b"f", DATA)
    pack = pack_path(opened.packs, 1)
    good = pack.read_bytes()
    overwrite(pack, good.index(DATA[40 * CHUNK : 40 * CHUNK + 100]), b"damage")
    runs = opened.contents.plan(inode, 0, len(DATA))
    with pytest.raises(CorruptChunk):
        parallel.gather(opened.contents, runs)
    pack.write_bytes(good)


def test_when_no_thread_can_be_started(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calling one does all."""

    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    inode = stored_file(opened, b"f", DATA)
    runs = opened.contents.plan(inode, 0, len(DATA))
    monkeypatch.setattr(parallel, "start_new_thread", start)
    assert parallel.gather(opened.contents, runs) == DATA


def test_whole_chunks_are_read_once(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that were read are verified, not read a second time."""
    inode = stored_file(opened, b"f", DATA)
    sizes: list[int] = []
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        sizes.append(sum(map(len, buffers)))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    opened.contents.fill(
        opened.contents.plan(inode, 0, len(DATA)), memoryview(bytearray(len(DATA)))
    )
    assert sum(sizes) == len(DATA)


def test_no_thread_writes_after_interruptions(opened: Store) -> None:
    """Ctrl-C again and again does not end the wait for the helpers; it is raised afterwards."""
    inode = stored_file(opened, b"f", DATA)
    runs = opened.contents.plan(inode, 0, len(DATA))
    interruptions: list[float] = []
    writing = threading.Barrier(3)
    filled: list[float] = []

    class Slow:
        """The helpers' pieces last until well after the second interruption."""

        def fill(self, runs: list[ReadRun], into: memoryview) -> None:
            writing.wait(20)
            if threading.current_thread() is not threading.main_thread():
                time.sleep(0.3)
                into[:1] = b"x"
                filled.append(time.monotonic())

    def interrupt(*_: object) -> None:
        interruptions.append(time.monotonic())
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.05)
        with pytest.raises(KeyboardInterrupt):
            parallel.gather(Slow(), runs)  # type: ignore[arg-type]
        ended = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(interruptions) > 1
    assert len(filled) == 2
    assert max(filled) < ended
