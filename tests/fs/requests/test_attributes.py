"""Attributes: of inodes, extended ones, and the virtual one."""

import errno
import os
import stat
from pathlib import Path
from typing import cast

import pytest
from pyfuse3 import InodeT, RequestContext, XAttrNameT

from tests.support.served_store import ASKED, DATA, TOP, Caller, Served, refused


async def test_getattr_of_nothing(served: Served) -> None:
    """A missing inode is ENOENT."""
    with refused(errno.ENOENT):
        await served.operations.getattr(InodeT(99), ASKED)


async def test_setattr(served: Served) -> None:
    """Mode, owner and times are set; the file's type and all other attributes stay."""
    inode = await served.written(b"f", DATA)
    entry = await served.set(inode, mode=0o600, uid=7, mtime_ns=11)
    assert (entry.st_mode, entry.st_uid, entry.st_mtime_ns) == (stat.S_IFREG | 0o600, 7, 11)
    assert (entry.st_gid, entry.st_size) == (Caller().gid, len(DATA))
    entry = await served.set(inode, gid=8, atime_ns=12)
    assert (entry.st_uid, entry.st_gid, entry.st_atime_ns, entry.st_mtime_ns) == (7, 8, 12, 11)


async def test_times_survive_ingest(served: Served) -> None:
    """A time that was set while content was staged is there after ingest."""
    inode = await served.written(b"f", DATA)
    await served.set(inode, mtime_ns=11)
    await served.background.ingest.sync()
    assert (await served.operations.getattr(InodeT(inode), ASKED)).st_mtime_ns == 11


async def test_truncate_and_set_times(served: Served) -> None:
    """If a request changes the size and the times, it sets the requested times."""
    inode = await served.written(b"f", DATA)
    entry = await served.set(inode, size=3, mtime_ns=11)
    assert (entry.st_size, entry.st_mtime_ns) == (3, 11)


async def test_xattrs(served: Served) -> None:
    """Attributes are set, listed, read and removed."""
    inode = InodeT(await served.written(b"f"))
    ops = served.operations
    for name in (b"user.b", b"user.a", b"security.capability"):
        await ops.setxattr(inode, XAttrNameT(name), b"value of " + name, ASKED)
    names = await ops.listxattr(inode, ASKED)
    assert sorted(names) == [b"security.capability", b"user.a", b"user.b"]
    assert await ops.getxattr(inode, XAttrNameT(b"user.a"), ASKED) == b"value of user.a"
    await ops.removexattr(inode, XAttrNameT(b"user.a"), ASKED)
    for gone in (ops.getxattr, ops.removexattr):
        with refused(errno.ENODATA):
            await gone(inode, XAttrNameT(b"user.a"), ASKED)


@pytest.mark.parametrize(("uid", "hidden"), [(0, set()), (1000, {b"trusted.a"})])
async def test_listed_to_root_only(served: Served, uid: int, hidden: set[bytes]) -> None:
    """`listxattr` hides trusted attributes from users."""
    names = {b"user.a", b"trusted.a", b"security.a"}
    inode = InodeT(await served.written(b"f"))
    for name in names:
        await served.operations.setxattr(inode, XAttrNameT(name), b"x", ASKED)
    caller = cast("RequestContext", Caller(uid=uid))
    assert set(await served.operations.listxattr(inode, caller)) == names - hidden


async def test_xattrs_that_are_refused(served: Served) -> None:
    """ACLs, values that are too long and names reserved for modelfs are refused."""
    inode = InodeT(await served.written(b"f"))
    for name, value, number in (
        (b"system.posix_acl_access", b"x", errno.EOPNOTSUPP),
        (b"user.long", bytes((64 << 10) + 1), errno.E2BIG),
        (b"user.modelfs.store", b"x", errno.EPERM),
        (b"user.modelfs.other", b"x", errno.EPERM),
    ):
        with refused(number):
            await served.operations.setxattr(inode, XAttrNameT(name), value, ASKED)
    assert await served.operations.listxattr(inode, ASKED) == []


async def test_virtual_xattr(served: Served) -> None:
    """Every inode has an attribute with the path of its store, and does not list it."""
    name = XAttrNameT(b"user.modelfs.store")
    for inode in (TOP, InodeT(await served.written(b"f"))):
        path = await served.operations.getxattr(inode, name, ASKED)
        assert Path(os.fsdecode(path)) == served.store.folder
        assert await served.operations.listxattr(inode, ASKED) == []
