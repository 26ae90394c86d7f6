"""A disk below a store that fails on command, and the promises of the store above it."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from modelfs.errors import LostBytes, ModelfsError
from modelfs.jobs.check.fsck import check
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store
from tests.support.crash.states import FAMILY
from tests.support.lost_writeback import LostWriteBack
from tests.support.run_jobs import collect, drain, ingest_file, optimize
from tests.support.stores import CHUNK, FILE, ME, check_closed, content_of, model_of, noise

# Every call by which a store reads or changes its files, without those of LMDB.
CALLS: Final = (
    *("open", "pwritev", "pread", "preadv"),
    *("fsync", "fdatasync", "ftruncate", "unlink"),
)
# Calls that may transfer a part of their bytes.
PARTIAL: Final = ("pwritev", "pread", "preadv")
PART: Final = 0
SYNCS: Final = ("fsync", "fdatasync")
READS: Final = ("pread", "preadv")
# The error, and whether it is permanent.
WAYS: Final = (
    (errno.EIO, False),
    (errno.ENOSPC, True),
    (errno.EIO, True),
    (errno.ENOSPC, False),
)
# The calls that fail permanently: a full disk still reads and deletes.
AFFECTED: Final = {errno.EIO: CALLS, errno.ENOSPC: ("pwritev",), PART: PARTIAL}
ROUNDS: Final = 2  # how often a user tries an operation


@dataclass
class Fault:
    """A call that fails: the `number`-th of its name, and if `lasting` all later ones.

    With the error `PART` the call transfers a part of its bytes, which is no failure. If fdatasync
    of a pack fails, its unsynced bytes are lost, as in the kernel.
    """

    call: str
    number: int
    error: int
    lasting: bool
    seen: int = 0
    struck: bool = False
    unsynced: dict[Path, list[tuple[int, int]]] = field(default_factory=dict)  # offsets and sizes

    @contextlib.contextmanager
    def below(self) -> Iterator[None]:
        """Make the disk fail inside the block."""
        with contextlib.ExitStack() as stack:
            for name in CALLS:
                stack.enter_context(patch.object(os, name, self._wrapped(name)))
            yield

    def _wrapped(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._strikes(name):
                result = real(*args, **kwargs)
                self._note(name, *args, result)
                return result
            if name == "fdatasync":
                self._lose(args[0])
            if self.error == PART:
                return real(*_halved(name, *args))
            raise OSError(self.error, os.strerror(self.error))

        return call

    def _note(self, name: str, *args: Any) -> None:
        match name, args:
            case "pwritev", (fd, _, offset, size):
                self.unsynced.setdefault(_path(fd), []).append((offset, size))
            case "fdatasync", (fd, _):
                self.unsynced.pop(_path(fd), None)

    def _lose(self, fd: int) -> None:
        # The page cache still has the bytes of staging files.
        path = _path(fd)
        if path.suffix == ".pack":
            for offset, size in self.unsynced.pop(path, ()):
                os.pwrite(fd, b"\xee" * size, offset)

    def _strikes(self, name: str) -> bool:
        if self.struck:
            return self.lasting and name in AFFECTED[self.error]
        if name != self.call:
            return False
        self.struck = self.seen == self.number
        self.seen += 1
        return self.struck


def _path(fd: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{fd}"))


def _halved(name: str, fd: int, data: Any, *offset: int) -> tuple[Any, ...]:
    # The arguments for half of a transfer, but at least one byte.
    match name:
        case "pread":
            return fd, (data + 1) // 2, *offset
        case _:
            first = memoryview(data[0])
            return fd, [first[: (len(first) + 1) // 2]], *offset


@dataclass
class File:
    """The contents that a file may have: all versions since the last acknowledged one."""

    inode: InodeNumber
    versions: list[bytes] = field(default_factory=lambda: [b""])
    unsure: bool = False  # a write failed: each of its bytes is old or new

    def check_in(self, store: Store, *, crashed: bool) -> None:
        """Read the file from a store, and check its content."""
        try:
            content = content_of(store, self.inode)
        except LostBytes:
            # Only bytes that were not acknowledged may be lost.
            assert len(self.versions) > 1 or self.unsure
        else:
            self.check(content, crashed=crashed)

    def check(self, content: bytes, *, crashed: bool) -> None:
        if not crashed and not self.unsure:
            assert content == self.versions[-1]
            return
        sizes = [len(version) for version in self.versions]
        assert min(sizes) <= len(content) <= max(sizes)
        padded = [version.ljust(max(sizes), b"\0") for version in self.versions]
        for at, byte in enumerate(content):
            assert any(version[at] == byte for version in padded), f"a byte of no version at {at}"


class User:
    """Works with a store, and remembers all acknowledged changes."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.failures = 0
        self.names: list[dict[bytes, File]] = [{}]  # as a file's versions

    def _try(self, action: Callable[[], object]) -> bool:
        for _ in range(ROUNDS):
            try:
                action()
            except (OSError, ModelfsError):
                self.failures += 1
            else:
                return True
        return False

    def _named(self, **changes: File | None) -> None:
        names = {**self.names[-1], **{name.encode(): file for name, file in changes.items()}}
        self.names.append({name: file for name, file in names.items() if file is not None})

    def create(self, name: str, data: bytes) -> File:
        file = File(self.store.namespace.create(ROOT, name.encode(), FILE, ME).inode)
        self._named(**{name: file})
        self.write(file, 0, data)
        return file

    def write(self, file: File, offset: int, data: bytes) -> None:
        old = file.versions[-1]
        new = old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]
        file.versions.append(new)
        if not self._try(lambda: self.store.writes.write(file.inode, offset, data)):
            file.unsure = True

    def truncate(self, file: File, size: int) -> None:
        file.versions.append(file.versions[-1][:size].ljust(size, b"\0"))
        self.store.writes.truncate(file.inode, size)

    def rename(self, old: str, new: str) -> None:
        self.flush(self.names[-1][old.encode()])
        self.store.namespace.rename((ROOT, old.encode()), (ROOT, new.encode()))
        self._named(**{new: self.names[-1][old.encode()], old: None})

    def remove(self, name: str) -> None:
        self.store.namespace.unlink(ROOT, name.encode())
        self._named(**{name: None})

    def remove_orphan(self, file: File) -> None:
        drain(self.store.orphans.remove(file.inode))

    def flush(self, file: File) -> bool:
        return self._try(lambda: self.store.flush(file.inode))

    def commit(self) -> bool:
        if done := self._try(self.store.commit):
            self.names = self.names[-1:]
        return done

    def fsync(self, file: File) -> None:
        content = file.versions[-1]
        if self.flush(file) and self.commit() and not file.unsure:
            file.versions = [content]

    def ingest(self, file: File) -> None:
        self._try(lambda: ingest_file(self.store, file.inode))

    def collect(self) -> None:
        self._try(partial(collect, self.store))

    def optimize(self) -> None:
        self._try(partial(optimize, self.store))

    def read(self, file: File) -> None:
        self._try(lambda: file.check(content_of(self.store, file.inode), crashed=False))


def work(user: User) -> None:
    """Do some of everything."""
    shared = noise(4 * CHUNK, 1)
    first = user.create("first", model_of(shared, noise(3 * CHUNK, 2)))
    user.fsync(first)
    user.ingest(first)
    second = user.create("second", model_of(shared, noise(CHUNK, 3), note="another"))
    text = user.create("text", b"words that zstd makes shorter, " * 400)
    user.fsync(second)
    for file in (second, text):
        user.ingest(file)
        user.read(file)
    user.commit()
    user.write(first, 5 * CHUNK, noise(100, 4))
    user.fsync(first)
    user.truncate(second, 2 * CHUNK)
    user.write(second, 3 * CHUNK, noise(6 * CHUNK, 5))
    user.read(second)
    user.fsync(second)
    for file in (first, second):
        user.ingest(file)
        user.read(file)
    copy = user.create("copy", first.versions[-1])
    user.ingest(copy)
    user.commit()
    user.rename("copy", "text")
    user.remove("first")
    user.commit()
    user.collect()
    for file in user.names[-1].values():
        user.read(file)
    user.fsync(copy)


def write_family(user: User) -> None:
    """Store models whose chunks derive from one another, and others that are scattered."""
    for number, content in enumerate(FAMILY):
        user.ingest(user.create(f"model{number}", content))
    blocks = [noise(CHUNK, 100 + number) for number in range(6)]
    user.ingest(user.create("whole", b"".join(blocks)))
    for number in range(2):
        user.ingest(user.create(f"half{number}", b"".join(blocks[number::2])))
    user.remove("whole")
    user.commit()


def optimize_family(user: User) -> None:
    """Optimize everything, remove the bases' files, collect, and optimize once more."""
    files = user.names[-1]
    user.optimize()
    for file in files.values():
        user.read(file)
    user.write(files[b"model1"], len(FAMILY[1]) - CHUNK, noise(100, 4))
    user.fsync(files[b"model1"])
    user.ingest(files[b"model1"])
    user.remove("model0")
    user.remove_orphan(files[b"model0"])
    user.commit()
    user.collect()
    user.optimize()
    for file in user.names[-1].values():
        user.read(file)


def survive(
    path: Path,
    fault: Fault | LostWriteBack,
    work: Callable[[User], None] = work,
    prepare: Callable[[User], None] = lambda user: None,
) -> bool:
    """Work on a failing disk, and check every promise; return whether a call failed at all."""
    store = Store(path)
    try:
        user = User(store)
        prepare(user)
        with fault.below():
            work(user)
        assert fault.error != PART or not user.failures
        if fault.call not in READS:
            _check_crash(path, user)
        _check_going_on(user)
        assert [*check(store, data=True)] == []
    finally:
        store.abandon()
    assert check_closed(path) == []
    return fault.struck


def _check_crash(path: Path, user: User) -> None:
    # The state after a crash at this moment.
    left = path.with_name(path.name + "-crashed")
    shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(path, left)
    with Store(left) as store:
        listed = {name: inode for _, name, inode in store.dentries.listing(ROOT, 0, 100)}
        known = [{name: file.inode for name, file in names.items()} for names in user.names]
        assert listed in known
        files = {file.inode: file for names in user.names for file in names.values()}
        for inode in listed.values():
            files[inode].check_in(store, crashed=True)
        assert [*check(store, data=True)] == []


def _check_going_on(user: User) -> None:
    # The disk works again, and so does the store; failed writes succeed once they are repeated.
    for file in user.names[-1].values():
        file.check_in(user.store, crashed=False)
        content = file.versions[-1]
        user.store.writes.truncate(file.inode, 0)
        user.store.writes.write(file.inode, 0, content)
        user.store.flush(file.inode)
        ingest_file(user.store, file.inode)
        assert content_of(user.store, file.inode) == content
    user.store.commit()
    collect(user.store)
