"""The LMDB environment: full maps, MDB_PANIC, and files cut short."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import cast

import lmdb
import pytest

from modelfs.errors import CorruptIndex, StoreBusy, StoreFull
from modelfs.store.disk.directory import Directory
from modelfs.store.index import environment as environment_module
from modelfs.store.index.fork_gate import FORK_GATE
from modelfs.store.index.index import Index
from modelfs.store.index.row_checksum import checked
from modelfs.store.index.tables import Table
from tests.support.small_index import put


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


def fail(index: Index, **failures: lmdb.Error) -> None:
    environment = index.environment
    assert environment._env is not None
    environment._env = cast("lmdb.Environment", Stubborn(environment._env, **failures))


def failure(code: int) -> lmdb.Error:
    return cast("lmdb.Error", type("Failed", (lmdb.Error,), {"code": code})("told to fail"))


def test_a_map_that_cannot_grow_is_store_full(tmp_path: Path) -> None:
    """Without address space a commit is refused whole; deletes, and later puts, succeed."""
    index = Index(Directory(tmp_path), map_size=1 << 18)
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
        with index.environment.transaction() as transaction:
            inside.set()
            go.wait(20)
            stored = transaction.get(b"a", db=index.environment.database(Table.META))
            assert stored is not None
            values.append(checked(Table.META, b"a", stored))

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
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EIO, OSError),
        (-30797, CorruptIndex),
    ],
)
def test_errors_of_lmdb_are_translated(index: Index, code: int, wanted: type[Exception]) -> None:
    """A full disk or quota is StoreFull, a failed system call OSError, LMDB's own error damage."""
    fail(index, begin=failure(code))
    with pytest.raises(wanted):
        index.rows.write({})
    with pytest.raises(wanted):
        index.get(Table.META, b"a")


# -- readers beside a writer


def test_a_closed_gate_keeps_the_environment_closed(tmp_path: Path) -> None:
    """While a thread forks, others wait before they open it."""
    Index(Directory(tmp_path)).close()
    index = Index(Directory(tmp_path), read_only=True)
    values: list[bytes | None] = []
    thread = threading.Thread(target=lambda: values.append(index.get(Table.META, b"a")))
    assert FORK_GATE.close(index.rows.reopen)
    try:
        assert not opened(tmp_path)
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
    finally:
        FORK_GATE.open()
    thread.join(20)
    assert values == [None]
    assert opened(tmp_path)
    index.close()


def opened(folder: Path) -> list[str]:
    found = (os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())
    return [name for name in found if name.startswith(f"{folder}/")]


def test_reopening_waits_for_other_threads_only(index: Index) -> None:
    """A thread's own transaction ends in an error, since it cannot be waited for."""

    def fork_inside() -> None:
        with index.environment.transaction() as transaction:
            index.rows.reopen()
            transaction.get(b"a", db=index.environment.database(Table.META))

    with pytest.raises(CorruptIndex):
        fork_inside()
    assert index.get(Table.META, b"a") == b"1"


def readers(index: Index) -> str:
    environment = index.environment._env
    assert environment is not None
    return environment.readers()


READ = """
import sys
from pathlib import Path
from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from modelfs.store.index.row_checksum import checked
from modelfs.store.index.tables import Table
index = Index(Directory(Path(sys.argv[1])), read_only=True)
index.get(Table.META, b"a")
with index.rows.pinned():
    index.get(Table.META, b"a")
    if "copy" in sys.argv:
        (Path(sys.argv[1]) / "lock.mdb").read_bytes()
    print("pinned", flush=True)
    sys.stdin.readline()
print("free", flush=True)
sys.stdin.readline()
"""


def reader_process(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", READ, folder, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "pinned\n"
    return process


def test_readers_keep_no_place(index: Index, tmp_path: Path) -> None:
    """However many processes have a store open, only their transactions count."""
    with reader_process(tmp_path) as process:
        assert f" {process.pid} " in readers(index)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "free\n"
        assert f" {process.pid} " not in readers(index)
        process.stdin.close()


def test_a_killed_reader_does_not_let_the_index_grow(index: Index, tmp_path: Path) -> None:
    """Its place is free with the next commit, and pages are used again."""
    with reader_process(tmp_path) as process:
        process.kill()
    assert f" {process.pid} " in readers(index)
    sizes: list[int] = []
    for number in range(30):
        with index.change():
            for key in range(100):
                index.put(Table.META, b"%d" % key, bytes([number]) * 1000)
        index.commit()
        sizes.append(index.file.used())
    assert f" {process.pid} " not in readers(index)
    assert sizes[-1] == sizes[10]


def test_a_reader_that_copies_the_lock_file_keeps_its_place(index: Index, tmp_path: Path) -> None:
    """To open and close the file ends its locks, by which LMDB knows a living process."""
    with reader_process(tmp_path, "copy") as copying, reader_process(tmp_path) as other:
        put(index, b"a", b"1")
        assert f" {copying.pid} " in readers(index)
        other.kill()
        other.wait()
        put(index, b"a", b"2")  # LMDB would free both
        assert f" {copying.pid} " in readers(index)
        copying.kill()
        copying.wait()
    with reader_process(tmp_path) as third:
        put(index, b"a", b"3")
        assert f" {copying.pid} " not in readers(index)
        assert f" {other.pid} " not in readers(index)
        assert f" {third.pid} " in readers(index)
        third.kill()


def test_more_transactions_than_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait for one; after some time it is an error, and no damage."""
    Index(Directory(tmp_path)).close()
    index = Index(Directory(tmp_path), read_only=True)
    environment = index.environment._env
    assert environment is not None
    places = [environment.begin() for _ in range(environment.info()["max_readers"])]
    thread = threading.Timer(0.1, places.pop)
    thread.start()
    assert index.get(Table.META, b"a") is None
    thread.join()
    places.append(environment.begin())
    monkeypatch.setattr(environment_module, "SLOT_SECONDS", 0.01)
    with pytest.raises(StoreBusy, match="too many transactions"):
        index.get(Table.META, b"a")
    del places
    index.close()


def test_without_permission_no_place_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock file is not needed, nor made."""
    Index(Directory(tmp_path)).close()
    (tmp_path / "lock.mdb").unlink()
    monkeypatch.setattr(environment_module, "may_lock", lambda _: False)
    index = Index(Directory(tmp_path), read_only=True)
    with index.rows.pinned():
        assert index.get(Table.META, b"a") is None
        assert index.rows.snapshot_id() > 0
    index.close()
    assert not (tmp_path / "lock.mdb").exists()


def test_a_drain_does_not_wait_for_itself(tmp_path: Path) -> None:
    """A thread that is inside a transaction may begin another one while a fork waits for it."""
    Index(Directory(tmp_path)).close()
    index = Index(Directory(tmp_path), read_only=True)
    inside, go = threading.Event(), threading.Event()
    values: list[bytes | None] = []

    def work() -> None:
        with index.rows.pinned():
            inside.set()
            assert go.wait(20)
            values.append(index.rows.newest(Table.META, b"a"))

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(20)
    reopener = threading.Thread(target=index.rows.reopen)
    reopener.start()
    reopener.join(0.05)
    assert reopener.is_alive()
    go.set()
    thread.join(20)
    reopener.join(20)
    assert values == [None]
    assert not reopener.is_alive()
    index.close()


@contextmanager
def inside_transaction(index: Index) -> Iterator[threading.Event]:
    """A thread that is inside a transaction until the event is set, or the block ends."""
    inside, go = threading.Event(), threading.Event()

    def work() -> None:
        with index.environment.transaction():
            inside.set()
            assert go.wait(20)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(20)
    try:
        yield go
    finally:
        go.set()
        thread.join(20)


def interrupted(call: Callable[[], object]) -> None:
    """Interrupt a call on this thread that waits, as Ctrl-C does."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("panic", [False, True], ids=["reopening", "recovering"])
def test_ctrl_c_during_a_drain_changes_nothing(index: Index, *, panic: bool) -> None:
    """The environment stays open: this thread and others read, and a later drain succeeds."""
    values: list[bytes | None] = []
    thread = threading.Thread(target=lambda: values.append(index.get(Table.META, b"a")))
    with inside_transaction(index):
        if panic:
            fail(index, begin=lmdb.PanicError("told to fail"))
            interrupted(lambda: index.get(Table.META, b"a"))
        else:
            interrupted(index.rows.reopen)
            assert index.get(Table.META, b"a") == b"1"
    thread.start()
    thread.join(20)
    assert values == [b"1"]
    index.rows.reopen()
    assert index.get(Table.META, b"a") == b"1"


def test_ctrl_c_while_a_map_waits_to_grow(tmp_path: Path) -> None:
    """The changes stay sealed, and the next commit writes them."""
    index = Index(Directory(tmp_path), map_size=1 << 18)
    put(index, b"a", b"1")
    with index.change():
        index.put(Table.META, b"large", bytes(1 << 20))
    with inside_transaction(index):
        interrupted(index.commit)
        assert index.get(Table.META, b"a") == b"1"
    index.commit()
    index.rows.reopen()
    assert index.get(Table.META, b"large") == bytes(1 << 20)
    index.close()


def test_a_signal_handler_reopens_during_a_drain(index: Index) -> None:
    """As a fork in it does: afterwards the environment is closed, and opens again."""

    def handler(_: int, __: FrameType | None) -> None:
        go.set()
        index.rows.reopen()
        values.append(index.get(Table.META, b"a"))

    values: list[bytes | None] = []
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with inside_transaction(index) as go:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            index.rows.reopen()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert values == [b"1"]
    assert index.environment._env is None
    assert index.get(Table.META, b"a") == b"1"
