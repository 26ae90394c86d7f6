"""The request handlers: their answers, their errors, and their effects on the store."""

import errno
import math
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pyfuse3
import pytest
import trio
from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ModeT, XAttrNameT

from modelfs.store.files.window import WINDOW
from modelfs.store.index.name_records import NAME_MAX
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store
from tests.support.run_jobs import ingest_all
from tests.support.served_store import (
    ASKED,
    DATA,
    FOLDER_MODE,
    MODE,
    READ,
    TOKEN,
    TOP,
    WRITE,
    Caller,
    Failing,
    Listing,
    Served,
    folder,
    listed,
    lookups,
    named,
    refused,
    rename,
)
from tests.support.stores import CHUNK, Box, content_of, new_file, noise, pending_files


def node(served: Served, inode: int) -> Inode | None:
    return served.store.inodes.find(InodeNumber(inode))


# -- names


async def test_lookup(served: Served) -> None:
    """A lookup returns the inode's attributes, which the kernel may cache."""
    inode = await served.written(b"f", b"12345")
    entry = await served.operations.lookup(TOP, named("f"), ASKED)
    assert (entry.st_ino, entry.st_size, entry.st_mode) == (inode, 5, MODE)
    assert entry.st_nlink == 1
    assert entry.entry_timeout > 60
    assert entry.attr_timeout > 60
    assert lookups(served, inode) == 2


async def test_lookup_of_nothing(served: Served) -> None:
    """The kernel may cache that a name does not exist, and counts no lookup of it."""
    entry = await served.operations.lookup(TOP, named("nothing"), ASKED)
    assert entry.st_ino == 0
    assert entry.entry_timeout > 60
    assert not lookups(served, InodeNumber(0))


@pytest.mark.parametrize(
    ("name", "number"), [(b"f/x", errno.EINVAL), (b"x" * (NAME_MAX + 1), errno.ENAMETOOLONG)]
)
async def test_lookup_of_impossible_names(served: Served, name: bytes, number: int) -> None:
    """An impossible name is an error, and the kernel does not cache that it is missing."""
    with refused(number):
        await served.operations.lookup(TOP, FileNameT(name), ASKED)


async def test_lookup_in_a_file(served: Served) -> None:
    """Only directories have names in them."""
    inode = await served.written(b"f")
    with refused(errno.ENOTDIR):
        await served.operations.lookup(InodeT(inode), named("x"), ASKED)


async def test_lookup_of_dots(served: Served) -> None:
    """Lookups of dots find a directory and its parent, as NFS exports need."""
    inner = await folder(served, b"d")
    for name, wanted in ((b".", inner), (b"..", TOP)):
        assert (await served.operations.lookup(inner, named(name), ASKED)).st_ino == wanted


async def test_lookup_of_an_inode(served: Served) -> None:
    """A lookup of the dot in a file finds the file, as file handles need."""
    inode = InodeT(await served.written(b"f"))
    assert (await served.operations.lookup(inode, named("."), ASKED)).st_ino == inode
    await served.operations.unlink(TOP, named("f"), ASKED)
    assert (await served.operations.lookup(inode, named("."), ASKED)).st_ino == 0


async def test_every_entry_counts_one_lookup(served: Served) -> None:
    """Each reply with an entry counts one lookup, until the kernel's forget."""
    ops = served.operations
    made = [
        await ops.mknod(TOP, named("fifo"), ModeT(stat.S_IFIFO | 0o600), 0, ASKED),
        await ops.mkdir(TOP, named("d"), FOLDER_MODE, ASKED),
        await ops.symlink(TOP, named("s"), named("target"), ASKED),
        (await ops.create(TOP, named("f"), MODE, WRITE, ASKED))[1],
    ]
    inodes = [InodeNumber(entry.st_ino) for entry in made]
    assert [lookups(served, inode) for inode in inodes] == [1, 1, 1, 1]
    await ops.link(InodeT(inodes[0]), TOP, named("again"), ASKED)
    assert lookups(served, inodes[0]) == 2
    await ops.forget([(InodeT(inodes[0]), 2), *((InodeT(inode), 1) for inode in inodes[1:])])
    assert not any(lookups(served, inode) for inode in inodes)
    await served.background.gc.collect()
    assert all(node(served, inode) for inode in inodes)


@pytest.mark.parametrize("kind", ["mknod", "mkdir", "symlink", "link", "create"])
async def test_refused_entries_count_no_lookup(served: Served, kind: str) -> None:
    """A name that exists is EEXIST, and counts no lookup."""
    ops = served.operations
    inode, other = await served.written(b"f"), await served.written(b"other")
    before = lookups(served, inode), lookups(served, other)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "mknod": lambda: ops.mknod(TOP, named("f"), MODE, 0, ASKED),
        "mkdir": lambda: ops.mkdir(TOP, named("f"), FOLDER_MODE, ASKED),
        "symlink": lambda: ops.symlink(TOP, named("f"), named("x"), ASKED),
        "link": lambda: ops.link(InodeT(other), TOP, named("f"), ASKED),
        "create": lambda: ops.create(TOP, named("f"), MODE, WRITE, ASKED),
    }
    with refused(errno.EEXIST):
        await calls[kind]()
    assert (lookups(served, inode), lookups(served, other)) == before
    assert not served.handles.is_open_for_writing(inode)


async def test_owner_is_the_caller(served: Served) -> None:
    """A new file belongs to the caller, and has the requested mode."""
    _, entry = await served.operations.create(TOP, named("f"), ModeT(0o100640), WRITE, ASKED)
    assert (entry.st_uid, entry.st_gid, entry.st_mode) == (Caller().uid, Caller().gid, 0o100640)


async def test_device_node(served: Served) -> None:
    """A device node keeps its numbers."""
    mode = ModeT(stat.S_IFCHR | 0o600)
    entry = await served.operations.mknod(TOP, named("null"), mode, os.makedev(1, 3), ASKED)
    assert (entry.st_rdev, entry.st_mode) == (os.makedev(1, 3), mode)


async def test_mkdir_is_a_directory(served: Served) -> None:
    """The kernel does not send the type with mkdir."""
    entry = await served.operations.mkdir(TOP, named("d"), FOLDER_MODE, ASKED)
    assert stat.S_ISDIR(entry.st_mode)
    assert (await served.operations.getattr(TOP, ASKED)).st_nlink == 3


async def test_symlink(served: Served) -> None:
    """`readlink` returns a symbolic link's target, and fails for other files."""
    entry = await served.operations.symlink(TOP, named("s"), named("a/b"), ASKED)
    assert await served.operations.readlink(entry.st_ino, ASKED) == b"a/b"
    assert entry.st_size == 3
    with refused(errno.EINVAL):
        await served.operations.readlink(TOP, ASKED)
    with refused(errno.ENAMETOOLONG):
        await served.operations.symlink(TOP, named("t"), named("x" * 4096), ASKED)


async def test_link(served: Served) -> None:
    """A file with two names is one file until both are gone; a directory has one."""
    inode = await served.written(b"f", DATA)
    entry = await served.operations.link(InodeT(inode), TOP, named("g"), ASKED)
    assert (entry.st_ino, entry.st_nlink) == (inode, 2)
    await served.operations.unlink(TOP, named("f"), ASKED)
    assert await served.content(await served.looked_up(b"g")) == DATA
    with refused(errno.EPERM):
        await served.operations.link(await folder(served, b"d"), TOP, named("h"), ASKED)


async def test_unlinked_file_stays_while_looked_up(served: Served) -> None:
    """An open file without a name can be read and written, and is removed after its forget."""
    inode, handle = await served.created(b"f", DATA)
    await served.operations.unlink(TOP, named("f"), ASKED)
    assert await served.looked_up(b"f") == 0
    await served.background.gc.collect()
    assert await served.operations.write(handle, 0, b"new") == 3
    assert bytes(await served.operations.read(handle, 0, 5)) == b"new" + DATA[3:5]
    with refused(errno.ENOENT):
        await served.operations.link(InodeT(inode), TOP, named("g"), ASKED)
    await served.operations.release(handle)
    await served.operations.forget([(InodeT(inode), lookups(served, inode))])
    await served.background.gc.collect()
    assert node(served, inode) is None
    assert served.store.staging.find(inode) is None


async def test_unlinked_file_without_lookups(served: Served) -> None:
    """A file without lookups is removed as soon as its name is."""
    inode = await served.chunked(b"f", DATA)
    await served.operations.forget([(InodeT(inode), lookups(served, inode))])
    assert node(served, inode) is not None
    await served.operations.unlink(TOP, named("f"), ASKED)
    found = await served.background.gc.collect()
    assert node(served, inode) is None
    assert found.dead_bytes >= len(DATA)


async def test_forget_of_a_part(served: Served) -> None:
    """An unlinked file stays as long as one lookup is left."""
    inode = await served.written(b"f")
    await served.looked_up(b"f")
    await served.operations.unlink(TOP, named("f"), ASKED)
    await served.operations.forget([(InodeT(inode), 1)])
    await served.background.gc.collect()
    assert node(served, inode) is not None
    await served.operations.forget([(InodeT(inode), 1)])
    await served.background.gc.collect()
    assert node(served, inode) is None


async def test_unlink_refuses(served: Served) -> None:
    """`unlink` refuses directories and missing names, and rmdir refuses files."""
    await served.written(b"f")
    inner = await folder(served, b"d")
    await folder(served, b"inner", inner)
    for call, name, number in (
        (served.operations.unlink, b"x", errno.ENOENT),
        (served.operations.unlink, b"d", errno.EISDIR),
        (served.operations.rmdir, b"x", errno.ENOENT),
        (served.operations.rmdir, b"f", errno.ENOTDIR),
        (served.operations.rmdir, b"d", errno.ENOTEMPTY),
    ):
        with refused(number):
            await call(TOP, named(name), ASKED)


async def test_rmdir(served: Served, listing: Listing) -> None:
    """A directory that was removed while it was open lists nothing and takes no new names."""
    inner = await folder(served, b"d")
    await served.operations.rmdir(TOP, named("d"), ASKED)
    await listed(served, listing, inner)
    assert listing.entries == []
    with refused(errno.ENOENT):
        await served.operations.create(inner, named("f"), MODE, WRITE, ASKED)
    await served.operations.forget([(inner, 1)])
    await served.background.gc.collect()
    assert node(served, inner) is None


# -- rename


async def test_rename(served: Served) -> None:
    """A file keeps its inode and its content when it moves."""
    inner = await folder(served, b"d")
    inode = await served.written(b"f", DATA)
    await rename(served, b"f", b"g", parent=inner)
    entry = await served.operations.lookup(inner, named("g"), ASKED)
    assert entry.st_ino == inode
    assert await served.looked_up(b"f") == 0
    assert await served.content(inode) == DATA


async def test_rename_over(served: Served) -> None:
    """A file that was renamed over is removed when the kernel forgets it."""
    inode, old = await served.written(b"f", DATA), await served.written(b"g", b"old")
    await rename(served, b"f", b"g")
    assert await served.looked_up(b"g") == inode
    replaced = node(served, old)
    assert replaced is not None
    assert replaced.nlink == 0
    assert await served.content(old) == b"old"
    await served.operations.forget([(InodeT(old), 1)])
    await served.background.gc.collect()
    assert node(served, old) is None


async def test_rename_over_a_forgotten_file(served: Served) -> None:
    """A file without lookups that is renamed over is removed at once."""
    await served.written(b"f", DATA)
    old = await served.written(b"g", b"old")
    await served.operations.forget([(InodeT(old), 1)])
    await rename(served, b"f", b"g")
    await served.background.gc.collect()
    assert node(served, old) is None


async def test_rename_over_a_name_of_itself(served: Served) -> None:
    """Two names of one file renamed over each other both stay, as in rename(3p)."""
    inode = await served.written(b"f", DATA)
    await served.operations.link(InodeT(inode), TOP, named("g"), ASKED)
    await rename(served, b"f", b"g")
    assert [await served.looked_up(name) for name in (b"f", b"g")] == [inode, inode]


async def test_rename_noreplace(served: Served) -> None:
    """RENAME_NOREPLACE refuses a name that is taken, and moves to one that is free."""
    inode, other = await served.written(b"f"), await served.written(b"g")
    with refused(errno.EEXIST):
        await rename(served, b"f", b"g", pyfuse3.RENAME_NOREPLACE)
    assert [await served.looked_up(name) for name in (b"f", b"g")] == [inode, other]
    await rename(served, b"f", b"h", pyfuse3.RENAME_NOREPLACE)
    assert await served.looked_up(b"h") == inode


async def test_rename_exchange(served: Served) -> None:
    """RENAME_EXCHANGE lets a file and a directory change places; both have to be there."""
    inode, inner = await served.written(b"f", DATA), await folder(served, b"d")
    await rename(served, b"f", b"d", pyfuse3.RENAME_EXCHANGE)
    assert [await served.looked_up(name) for name in (b"f", b"d")] == [inner, inode]
    with refused(errno.ENOENT):
        await rename(served, b"f", b"x", pyfuse3.RENAME_EXCHANGE)


async def test_rename_refuses(served: Served) -> None:
    """`rename` refuses unknown flags, missing names, and a directory below itself."""
    inner = await folder(served, b"d")
    with refused(errno.EINVAL):
        await rename(served, b"d", b"e", FlagT(4))
    with refused(errno.ENOENT):
        await rename(served, b"x", b"y")
    with refused(errno.EINVAL):
        await rename(served, b"d", b"e", parent=inner)


# -- directories


async def test_fsyncdir(served: Served, box: Box) -> None:
    """A directory that was synced has its names after a crash."""
    await served.written(b"f")
    handle = await served.operations.opendir(TOP, ASKED)
    await served.operations.fsyncdir(handle, datasync=False)
    await served.written(b"g")
    store = box.crash()
    assert [name for _, name, _ in store.dentries.listing(ROOT, 0, 10)] == [b"f"]


# -- attributes


async def test_statfs(served: Served) -> None:
    """`statfs` returns the room of the backing disk, less the reserve."""
    disk = os.statvfs(served.store.folder)
    ours = await served.operations.statfs(ASKED)
    assert ours.f_namemax == NAME_MAX
    assert ours.f_blocks * ours.f_frsize == pytest.approx(disk.f_blocks * disk.f_frsize, rel=0.01)
    assert ours.f_bavail * ours.f_frsize < disk.f_bavail * disk.f_frsize


# -- files


async def test_create_is_open_for_writing(served: Served) -> None:
    """A new file is open for writing, and the kernel may keep its pages."""
    info, entry = await served.operations.create(TOP, named("f"), MODE, WRITE, ASKED)
    assert info.keep_cache
    assert not info.direct_io
    assert served.handles.is_open_for_writing(InodeNumber(entry.st_ino))
    await served.operations.release(info.fh)
    assert not served.handles.is_open_for_writing(InodeNumber(entry.st_ino))


async def test_open_for_reading(served: Served) -> None:
    """A file that is open for reading does not count as open for writing."""
    inode = await served.written(b"f", DATA)
    info = await served.operations.open(InodeT(inode), READ, ASKED)
    assert info.keep_cache
    assert not served.handles.is_open_for_writing(inode)


async def test_write_and_read(served: Served) -> None:
    """A read returns written bytes, at any offset and over older ones."""
    inode, handle = await served.created(b"f", DATA)
    assert await served.operations.write(handle, 5, b"five") == 4
    assert await served.operations.write(handle, len(DATA) + 3, b"end") == 3
    wanted = DATA[:5] + b"five" + DATA[9:] + bytes(3) + b"end"
    assert await served.content(inode) == wanted
    await served.operations.release(handle)
    await served.background.ingest.sync()
    assert await served.content(inode) == wanted


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("over_chunks", [False, True])
async def test_write_across_a_window(served: Served, *, over_chunks: bool) -> None:
    """A write that begins in one staging file and ends in the third is one write."""
    inode = await (served.chunked if over_chunks else served.written)(b"f", DATA)
    info = await served.operations.open(InodeT(inode), WRITE, ASKED)
    new = noise(CHUNK + 200, 1)
    assert await served.operations.write(info.fh, CHUNK - 100, new) == len(new)
    wanted = DATA[: CHUNK - 100] + new + DATA[2 * CHUNK + 100 :]
    assert await served.content(inode) == wanted
    await served.operations.release(info.fh)
    await served.background.ingest.sync()
    assert await served.content(inode) == wanted


async def test_write_far_out(served: Served) -> None:
    """A write at the largest offset succeeds, and takes no room for the hole before it."""
    inode, handle = await served.created(b"f")
    offset = (1 << 63) - 1 - 10
    assert await served.operations.write(handle, offset, b"0123456789") == 10
    with refused(errno.EFBIG):
        await served.operations.write(handle, offset, b"0123456789X")
    assert bytes(await served.operations.read(handle, offset - 2, 5)) == b"\0\x00012"
    await served.operations.release(handle)
    assert (await served.operations.getattr(InodeT(inode), ASKED)).st_size == offset + 10
    assert offset // WINDOW in _windows(served.store, inode)


def _windows(store: Store, inode: InodeNumber) -> set[int]:
    staged = store.staging.find(inode)
    return set() if staged is None else set(staged.windows)


@pytest.mark.usefixtures("small_windows")
async def test_write_that_finds_the_disk_full_midway(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the disk fills up midway, write returns the bytes written before, as write(2) does."""
    old = noise(2 * CHUNK, 1)
    inode, handle = await served.created(b"f", old)
    monkeypatch.setattr(os, "pwritev", Failing(os.pwritev, OSError(errno.ENOSPC, "full"), 2))
    assert await served.operations.write(handle, 0, DATA) == CHUNK
    assert await served.content(inode) == DATA[:CHUNK] + old[CHUNK:]
    assert await served.operations.write(handle, CHUNK, DATA[CHUNK:]) == len(DATA) - CHUNK
    assert await served.content(inode) == DATA
    await served.operations.release(handle)


async def test_write_on_a_full_disk(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A write with no room at all is ENOSPC, leaves the file as it was, and names it in the log."""
    served.store.space.close()  # without a ballast both writes reach the disk
    inode, handle = await served.created(b"f", DATA)
    empty, other = await served.created(b"g")
    monkeypatch.setattr(os, "pwritev", Failing(os.pwritev, OSError(errno.ENOSPC, "full"), 1, 2))
    with refused(errno.ENOSPC):
        await served.operations.write(handle, 0, noise(10, 1))
    with refused(errno.ENOSPC):
        await served.operations.write(other, 5, noise(10, 1))
    assert all(f"write: [Errno 28] full: '/{name}'\n" in caplog.text for name in "fg")
    caplog.clear()
    assert await served.content(inode) == DATA
    assert await served.content(empty) == b""
    for each in (handle, other):
        await served.operations.release(each)
    await served.background.ingest.sync()
    assert pending_files(served.store) == []
    assert await served.content(inode) == DATA


async def test_descriptor_that_cannot_be_had(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A staging file that cannot be created fails that write, and no later one."""
    inode, handle = await served.created(b"f")
    descriptor = served.store.staging.descriptor
    failing = Failing(descriptor, OSError(errno.EMFILE, "too many open files"))
    monkeypatch.setattr(served.store.staging, "descriptor", failing)
    with refused(errno.EMFILE):
        await served.operations.write(handle, 0, DATA)
    caplog.clear()
    assert await served.operations.write(handle, 0, DATA) == len(DATA)
    assert await served.content(inode) == DATA
    await served.operations.release(handle)


async def test_no_room_left(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With only the reserve left, writes are ENOSPC, and everything can be removed."""
    inode, handle = await served.created(b"f", DATA)
    inner = await folder(served, b"d")
    real = os.statvfs

    def full(path: str | Path) -> os.statvfs_result:
        values = list(real(path))
        values[3] = values[4] = 0  # f_bfree, f_bavail
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", full)
    served.store.space.writable_bytes()  # looks at the disk again
    ops = served.operations
    big = (1 << 16) * b"x"
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: ops.write(handle, 0, big),
        lambda: ops.setxattr(InodeT(inode), XAttrNameT(b"user.x"), big, ASKED),
    ]
    for call in calls:
        with refused(errno.ENOSPC):
            await call()
    assert caplog.messages[0].startswith("write: /f: no space left on the disk under the store")
    assert (await ops.statfs(ASKED)).f_bavail == 0
    caplog.clear()
    await rename(served, b"f", b"g")
    await served.set(inode, size=0)
    await ops.release(handle)
    await ops.unlink(TOP, named("g"), ASKED)
    await ops.rmdir(TOP, named("d"), ASKED)
    await ops.forget([(InodeT(inode), 1), (inner, 1)])
    await served.background.gc.collect()
    assert node(served, inode) is None


@pytest.mark.parametrize("datasync", [False, True])
async def test_fsync(served: Served, box: Box, *, datasync: bool) -> None:
    """Synced bytes are there after a crash, and so is the file's name."""
    inode, handle = await served.created(b"f", DATA)
    await served.operations.fsync(handle, datasync)
    await served.operations.write(handle, len(DATA), b"more")
    store = box.crash()
    assert store.namespace.lookup(ROOT, b"f") == inode
    assert content_of(store, inode) == DATA


async def test_fsync_that_fails(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a failed fsync each read and fsync fails, until the bytes are written again."""
    inode, handle = await served.created(b"f", DATA)
    sync = Failing(os.fdatasync, OSError(errno.EIO, "broken"))
    monkeypatch.setattr(os, "fdatasync", sync)
    for _ in range(3):
        with refused(errno.EIO):
            await served.operations.fsync(handle, datasync=False)
    with refused(errno.EIO):
        await served.content(inode)
    await served.operations.write(handle, 0, DATA)
    await served.operations.fsync(handle, datasync=False)
    assert await served.content(inode) == DATA
    caplog.clear()


async def test_handles_that_are_not_open(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """An unknown handle is EINVAL, and is logged by handlers without a reply."""
    wrong = FileHandleT(99)
    ops = served.operations
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: ops.read(wrong, 0, 1),
        lambda: ops.write(wrong, 0, b"x"),
        lambda: ops.fsync(wrong, datasync=False),
        lambda: ops.readdir(wrong, 0, TOKEN),
    ]
    for call in calls:
        with refused(errno.EINVAL):
            await call()
    assert caplog.records == []
    await ops.release(wrong)
    await ops.releasedir(wrong)
    assert len(caplog.records) == 2
    caplog.clear()


async def test_release_by_the_last_writer(served: Served) -> None:
    """A file is due for ingest when its last writer has closed it, even if readers remain."""
    inode, handle = await served.created(b"f", DATA)
    second = await served.operations.open(InodeT(inode), WRITE, ASKED)
    reader = await served.operations.open(InodeT(inode), READ, ASKED)
    waiting = served.background.ingest._waiting
    await served.operations.release(handle)
    assert inode not in waiting
    await served.operations.release(second.fh)
    assert waiting[inode].due < math.inf
    await served.operations.release(reader.fh)


# -- a read-only store


async def test_read_only(box: Box, nursery: trio.Nursery, listing: Listing) -> None:
    """A read-only store can be read and listed, and every change is EROFS."""
    inode = new_file(box.store, b"f", DATA)
    ingest_all(box.store)
    box.store.close()
    with Store(box.path, read_only=True) as store:
        served = Served(store, nursery)
        ops = served.operations
        assert await served.content(inode) == DATA
        await listed(served, listing)
        assert listing.names == [b".", b"..", b"f"]
        node = InodeT(inode)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: ops.create(TOP, named("x"), MODE, WRITE, ASKED),
            lambda: ops.mknod(TOP, named("x"), MODE, 0, ASKED),
            lambda: ops.mkdir(TOP, named("x"), FOLDER_MODE, ASKED),
            lambda: ops.symlink(TOP, named("x"), named("y"), ASKED),
            lambda: ops.link(node, TOP, named("x"), ASKED),
            lambda: ops.unlink(TOP, named("f"), ASKED),
            lambda: rename(served, b"f", b"g"),
            lambda: served.set(inode, size=0),
            lambda: served.set(inode, mode=0),
            lambda: ops.setxattr(node, XAttrNameT(b"user.x"), b"", ASKED),
            lambda: ops.open(node, WRITE, ASKED),
            lambda: ops.open(node, FlagT(os.O_RDONLY | os.O_TRUNC), ASKED),
        ]
        for call in calls:
            with refused(errno.EROFS):
                await call()
        handle = served.handles.open(inode, writable=False)
        await ops.fsync(handle, datasync=False)
        await ops.fsyncdir(handle, datasync=False)
        await ops.release(handle)
    box.store = Store(box.path)
