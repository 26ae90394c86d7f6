"""A store behind its request handlers without a mount; stand-ins that fail, wait or count."""

import contextlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MethodType
from typing import Generic, ParamSpec, TypeVar, cast

import pytest
import trio
import trio.testing
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
)

from modelfs.fs.background.context import Context
from modelfs.fs.background.drive import Driver
from modelfs.fs.background.scheduler import Scheduler
from modelfs.fs.handles import Handle, Handles
from modelfs.fs.requests.operations import Operations
from modelfs.fs.requests.reader import Reader
from modelfs.fs.requests.writer import Writer
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store
from tests.support.stores import CHUNK, FILE, noise

P = ParamSpec("P")
R = TypeVar("R")

TOP = InodeT(ROOT)
MODE = ModeT(FILE)
READ = FlagT(os.O_RDONLY)
WRITE = FlagT(os.O_RDWR)
# Longer than any step of a test; a thread that waits gives up then.
DEADLINE = 20.0


def all_synced(_: Path, device: int, paths: dict[InodeNumber, bytes]) -> dict[InodeNumber, str]:
    """Stand for `sync_mapped_files`: no file has pages that could not be fetched."""
    return {}


TOKEN = cast("ReaddirToken", object())
FOLDER_MODE = ModeT(0o755)
NO_FLAGS = FlagT(0)

DATA = noise(3 * CHUNK + 5)
OTHER = noise(3 * CHUNK + 5, 1)


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a handler; pyfuse3's own class cannot be instantiated in Python."""

    uid: int = 1234
    gid: int = 5678
    pid: int = 1
    umask: int = 0o022


ASKED = cast("RequestContext", Caller())


@dataclass(slots=True)
class Wanted:
    """The attributes that a setattr request changes; a stand-in for pyfuse3's class, too."""

    update_size: bool = False
    update_mode: bool = False
    update_uid: bool = False
    update_gid: bool = False
    update_atime: bool = False
    update_mtime: bool = False
    update_ctime: bool = False


class Served:
    """A store with the whole daemon around it, without the mount."""

    def __init__(self, store: Store, nursery: trio.Nursery) -> None:
        self.store = store
        self.nursery = nursery
        self.workers = trio.CapacityLimiter(8)
        self.handles = Handles()
        self.background = Scheduler(store, self.handles, self.workers, Path("/no mount"))
        self.background.mapped_pages.mounted(os.makedev(0, 99))
        self.reader = Reader(store.contents, self.workers, nursery)
        self.writer = Writer(store.writes, self.workers)
        self.operations = Operations(store, self.handles, self.background, self.reader, self.writer)

    async def created(self, name: bytes, data: bytes = b"") -> tuple[InodeNumber, FileHandleT]:
        """Create a file as a program does, and leave it open."""
        info, entry = await self.operations.create(TOP, FileNameT(name), MODE, WRITE, ASKED)
        if data:
            assert await self.operations.write(info.fh, 0, data) == len(data)
        return InodeNumber(entry.st_ino), info.fh

    async def written(self, name: bytes, data: bytes = b"") -> InodeNumber:
        """Create a file, and close it."""
        inode, handle = await self.created(name, data)
        await self.operations.release(handle)
        return inode

    async def chunked(self, name: bytes, data: bytes) -> InodeNumber:
        """Create a file whose content is in chunks."""
        inode = await self.written(name, data)
        await self.background.ingest.sync()
        assert self.store.staging.find(inode) is None
        return inode

    async def content(self, inode: InodeNumber) -> bytes:
        """Return the content that a reader gets."""
        info = await self.operations.open(InodeT(inode), READ, ASKED)
        entry = await self.operations.getattr(InodeT(inode), ASKED)
        data = bytes(await self.operations.read(info.fh, 0, entry.st_size))
        await self.operations.release(info.fh)
        return data

    def context(self) -> Context:
        """Return the context for another background job of this store."""
        durability, pack_lock = self.background.durability, self.background.pack_lock
        driver = Driver(durability, self.workers, pack_lock)
        return Context(self.store, self.handles, durability, driver, pack_lock)

    def reader_of(self, inode: InodeNumber) -> Handle:
        """Open a file for reading."""
        return self.handles[self.handles.open(inode, writable=False)]

    async def idle(self) -> None:
        """Return when read-ahead has nothing left to do."""
        while self.workers.borrowed_tokens or self.nursery.child_tasks:
            await trio.testing.wait_all_tasks_blocked(0.001)

    async def looked_up(self, name: bytes) -> InodeNumber:
        """Return the inode of a name, 0 if it does not exist."""
        entry = await self.operations.lookup(TOP, FileNameT(name), ASKED)
        return InodeNumber(entry.st_ino)

    async def set(self, inode: InodeNumber, **values: int) -> EntryAttributes:
        """Change attributes, for example `size=0`."""
        attributes, wanted = EntryAttributes(), Wanted()
        for name, value in values.items():
            setattr(attributes, f"st_{name}", value)
            setattr(wanted, f"update_{name.removesuffix('_ns')}", True)
        return await self.operations.setattr(
            InodeT(inode), attributes, cast("SetattrFields", wanted), None, ASKED
        )


@contextlib.contextmanager
def refused(number: int) -> Iterator[None]:
    """Pass if the block ends with this errno for the kernel."""
    with pytest.raises(FUSEError) as caught:
        yield
    assert caught.value.errno == number, os.strerror(caught.value.errno)


@dataclass
class Listing:
    """Stands for `pyfuse3.readdir_reply`, with space for a number of entries."""

    room: int = 1000
    entries: list[tuple[bytes, InodeNumber, int]] = field(default_factory=list)

    def __call__(
        self, token: ReaddirToken, name: FileNameT, attr: EntryAttributes, next_id: int
    ) -> bool:
        if not self.room:
            return False
        self.room -= 1
        self.entries.append((name, InodeNumber(attr.st_ino), next_id))
        return True

    @property
    def names(self) -> list[bytes]:
        return [name for name, _, _ in self.entries]


class StandIn(ABC, Generic[P, R]):
    """Stands for a function; as a class attribute for a method, called with its object."""

    @abstractmethod
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., R]:
        return self if instance is None else MethodType(self, instance)


class Failing(StandIn[P, R]):
    """Stands for a function, and fails some calls: by default the first."""

    def __init__(self, real: Callable[P, R], error: BaseException, *calls: int) -> None:
        self._real = real
        self._error = error
        self._failing = calls or (1,)
        self.calls = 0

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        self.calls += 1
        if self.calls in self._failing:
            raise self._error
        return self._real(*args, **kwargs)


class Counting(StandIn[P, R]):
    """Stands for a function, and records the arguments of its calls."""

    def __init__(self, real: Callable[P, R]) -> None:
        self._real = real
        self.calls: list[tuple[object, ...]] = []

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        self.calls.append(args)
        return self._real(*args, **kwargs)


class Held(StandIn[P, R]):
    """Stands for a function of threads; its first call waits until the test releases it."""

    def __init__(self, real: Callable[P, R]) -> None:
        self._real = real
        self._first = True
        self._go = threading.Event()
        self.reached = trio.Event()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._first:
            self._first = False
            trio.from_thread.run_sync(self.reached.set)
            assert self._go.wait(DEADLINE), "never let go"
        return self._real(*args, **kwargs)

    def let_go(self) -> None:
        self._go.set()


class Follower:
    """Records the progress that it gets."""

    def __init__(self) -> None:
        self.progress: list[tuple[int, int]] = []

    async def __call__(self, done: int, total: int) -> None:
        self.progress.append((done, total))
        await trio.lowlevel.checkpoint()


class CancelAt(trio.abc.Instrument):
    """Cancels a task's scope at the task's n-th checkpoint; 0 is before all of them."""

    def __init__(self, scope: trio.CancelScope, number: int) -> None:
        self._task = trio.lowlevel.current_task()
        self._scope = scope
        self._left = number
        if not number:
            scope.cancel()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if not self._left:
                self._scope.cancel()


@contextlib.contextmanager
def cancelled_at(number: int) -> Iterator[trio.CancelScope]:
    """Cancel the block at its n-th checkpoint, if it has so many."""
    with trio.CancelScope() as scope:
        instrument = CancelAt(scope, number)
        trio.lowlevel.add_instrument(instrument)
        try:
            yield scope
        finally:
            trio.lowlevel.remove_instrument(instrument)


def names(store: Store) -> list[bytes]:
    """Return the names in the root directory."""
    return [name for _, name, _ in store.dentries.listing(ROOT, 0, 1000)]


def is_chunked(served: Served, inode: InodeNumber) -> bool:
    """Whether all content of a file is in chunks."""
    return served.store.staging.find(inode) is None


async def until(condition: Callable[[], bool]) -> None:
    """Return when a condition holds that other tasks make true."""
    with trio.fail_after(120):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await trio.sleep(0.25)


def named(name: bytes | str) -> FileNameT:
    """Return a name as pyfuse3 passes it."""
    return FileNameT(os.fsencode(name))


async def folder(served: Served, name: bytes, parent: InodeT = TOP) -> InodeT:
    """Make a directory."""
    entry = await served.operations.mkdir(parent, named(name), FOLDER_MODE, ASKED)
    return entry.st_ino


async def rename(
    served: Served, old: bytes, new: bytes, flags: FlagT = NO_FLAGS, parent: InodeT = TOP
) -> None:
    """Rename a file, of the root directory if no other is given."""
    await served.operations.rename(TOP, named(old), parent, named(new), flags, ASKED)


async def renamed_over(served: Served, number: int) -> InodeNumber:
    """Rename a new file over an old one, and return the new one."""
    await served.written(b"%d" % number)
    inode = await served.written(b"tmp", noise(100, number))
    await rename(served, b"tmp", b"%d" % number)
    return inode


async def listed(served: Served, listing: Listing, inode: InodeT = TOP, start: int = 0) -> None:
    """List a directory once, from a cookie on."""
    handle = await served.operations.opendir(inode, ASKED)
    await served.operations.readdir(handle, start, TOKEN)
    await served.operations.releasedir(handle)


def lookups(served: Served, inode: InodeNumber) -> int:
    """Return how many lookups of an inode the kernel has."""
    return served.operations.lookups.count(inode)
