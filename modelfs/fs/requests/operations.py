"""The request handlers.

Theory of operation. A handler converts the arguments, calls the store, and converts the result. One
that makes a change first waits until it may: see `changes`. Between two awaits it runs without
interruption, so a change of the namespace needs no lock as long as it is one synchronous
call. Slow parts leave the event loop: reads that wait for a disk or decode, writes while the disk
is behind, fsyncs and commits. No lock is held across an `await`; state that may change meanwhile is
read again afterwards (see `store.files.staging` and `jobs.ingest.apply`).

The kernel serialises writes and truncations of one file, except for O_TRUNC of open. It checks
permissions (`default_permissions`), keeps locks, and caches names, attributes and pages. A handler
runs when the kernel's caches have no answer, and for every change.

Example. `cp a b` into a mount: lookup finds no b, create makes an inode, a name and a handle, each
write of 1 MiB goes to the file's staged bytes, and release, at the close, makes the file due for
ingest. The kernel keeps the pages, so a later read of b may come to no handler at all.
"""

import os
import stat
from collections.abc import Sequence
from functools import partial
from typing import Final

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from modelfs.errors import (
    AttributeTooLarge,
    InvalidArgument,
    NotFound,
    NotPermitted,
    StoreFull,
    StoreReadOnly,
)
from modelfs.fs.background.scheduler import Scheduler
from modelfs.fs.handles import Handles
from modelfs.fs.host import session_io
from modelfs.fs.requests.allocator import Allocator
from modelfs.fs.requests.attributes import (
    attributes_of,
    change_of,
    is_exchange,
    is_noreplace,
    no_entry,
    statvfs_of,
)
from modelfs.fs.requests.boundary import replies, silent
from modelfs.fs.requests.carried import CarriedRequests
from modelfs.fs.requests.changes import NAME_ROOM, NOT_SYNC, Changes, SyncOptions
from modelfs.fs.requests.copier import Copier
from modelfs.fs.requests.lookups import Lookups
from modelfs.fs.requests.opener import Opener, wants_to_write
from modelfs.fs.requests.passthrough import Passthrough
from modelfs.fs.requests.privileges import CAPABILITIES, SET_ID, Privileges
from modelfs.fs.requests.readdir import READDIR_PAGE, entries
from modelfs.fs.requests.reader import Reader
from modelfs.fs.requests.seeker import Seeker
from modelfs.fs.requests.truncater import Truncater
from modelfs.fs.requests.writer import Writer
from modelfs.store.disk.allocation import FULL
from modelfs.store.files.namespace import Owner
from modelfs.store.index.tables import InodeNumber
from modelfs.store.mounted import DAEMON_ATTRIBUTE, STORE_ATTRIBUTE, daemon_attribute
from modelfs.store.store import Store

# Every file has this attribute, and listxattr leaves it out.
_STORE_ATTRIBUTE: Final = STORE_ATTRIBUTE.encode()
_DAEMON_ATTRIBUTE: Final = DAEMON_ATTRIBUTE.encode()
OWN_PREFIX: Final = b"user.modelfs."
# The kernel's XATTR_LIST_MAX: the most bytes of names, each with a NUL.
LISTING_MAX: Final = 64 << 10
KNOWN_RENAME_FLAGS: Final = pyfuse3.RENAME_EXCHANGE | pyfuse3.RENAME_NOREPLACE


class Operations(pyfuse3.Operations):
    """The handlers of a mounted store, by the names that pyfuse3 gives them."""

    supports_dot_lookup = True
    enable_writeback_cache = False  # with it, write(2) succeeds on a full disk
    enable_acl = False

    def __init__(
        self,
        store: Store,
        handles: Handles,
        background: Scheduler,
        reader: Reader,
        writer: Writer,
        *,
        sync: SyncOptions = NOT_SYNC,
    ) -> None:
        """Make the handlers.

        Args:
            store: to serve.
            handles: of the mount.
            background: work beside the requests.
            reader: of files.
            writer: of files.
            sync: the changes that are durable before a reply.
        """
        super().__init__()
        self._store = store
        self._handles = handles
        self.passthrough = Passthrough(store, handles)
        self._privileges = Privileges(store, background.durability.flush)
        self._opener = Opener(
            store.contents,
            handles,
            self.passthrough,
            self._privileges,
            background,
            is_sync=sync.content,
        )
        self._reader = reader
        self._writer = writer
        self._changes = Changes(store.space, background, commits_names=sync.names)
        self._durability = background.durability
        self._ingest = background.ingest
        self._gc = background.gc
        self._hot = background.hot
        self._shortage = background.shortage
        self.truncater = Truncater(
            store, handles, self.passthrough, background.ingest, background.mapped_pages
        )
        self.lookups = Lookups(store, background.gc.add_orphan)
        self.carried = CarriedRequests(
            handles,
            Seeker(store, handles),
            Allocator(store, background, self._changes),
            Copier(store, handles, background, self._changes, self.write),
            background.durability,
        )
        self.begun = trio.Event()  # set when the kernel is about to send requests

    def init(self) -> None:
        # pyfuse3 sends its reply before another task runs. After that the kernel has the settings
        # that libfuse asks for, such as the read-ahead.
        self.begun.set()

    # -- names

    @replies
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        try:
            inode = self._store.namespace.lookup(InodeNumber(parent_inode), name)
        except NotFound:
            return no_entry()
        return self.lookups.entry(inode)

    @silent
    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, count in inode_list:
            self.lookups.forget(InodeNumber(inode), count)

    @replies
    async def mknod(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        rdev: int,
        ctx: RequestContext,
    ) -> EntryAttributes:
        return await self._created(parent_inode, name, mode, ctx, rdev)

    @replies
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        return await self._created(parent_inode, name, ModeT(mode | stat.S_IFDIR), ctx)

    @replies
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        async with self._changes.of_names(ctx.pid):
            node = self._store.namespace.symlink(
                InodeNumber(parent_inode), name, target, Owner(ctx.uid, ctx.gid)
            )
        return self.lookups.entry(node.inode)

    @replies
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(self._store.namespace.readlink(InodeNumber(inode)))

    @replies
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        async with self._changes.of_names(ctx.pid):
            self._store.namespace.link(InodeNumber(inode), InodeNumber(new_parent_inode), new_name)
        return self.lookups.entry(InodeNumber(inode))

    @replies
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        async with self._changes.removing_names():
            self.lookups.lost_name(self._store.namespace.unlink(InodeNumber(parent_inode), name))

    @replies
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        async with self._changes.removing_names():
            self.lookups.lost_name(self._store.namespace.rmdir(InodeNumber(parent_inode), name))

    @replies
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        if flags & ~KNOWN_RENAME_FLAGS:
            raise InvalidArgument(f"rename flags {flags:#x}")
        old = InodeNumber(parent_inode_old), name_old
        new = InodeNumber(parent_inode_new), name_new
        # A name that is no longer than the old one goes without room: that is how files are
        # replaced, which has to work on a full disk.
        grows = len(name_new) > len(name_old) and not is_exchange(flags)
        async with self._changes.of_names(ctx.pid, NAME_ROOM if grows else 0):
            await self._durability.barrier.before_rename()
            self._rename(old, new, flags)

    def _rename(
        self, old: tuple[InodeNumber, bytes], new: tuple[InodeNumber, bytes], flags: FlagT
    ) -> None:
        barrier, namespace = self._durability.barrier, self._store.namespace
        if is_exchange(flags):
            namespace.exchange(old, new)
            barrier.replaced(namespace.lookup(*old))
            barrier.replaced(namespace.lookup(*new))
            return
        overwritten = namespace.rename(old, new, replace=not is_noreplace(flags))
        if overwritten is not None:
            barrier.replaced(namespace.lookup(*new))
            self.lookups.lost_name(overwritten)

    # -- directories

    @replies
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return self._handles.open(InodeNumber(inode), writable=False)

    @replies
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        listing = entries(self._store, self._handles[fh], start_id)
        for number, (cookie, name, entry, inode) in enumerate(listing, 1):
            if not pyfuse3.readdir_reply(token, FileNameT(name), entry, cookie):
                return
            if inode is not None:
                self.lookups.add(inode)
            if number % READDIR_PAGE == 0:
                await trio.lowlevel.checkpoint()

    @silent
    async def releasedir(self, fh: FileHandleT) -> None:
        self._handles.close(fh)

    @replies
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self._durability.commit()

    # -- attributes

    @replies
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        self._privileges.check(InodeNumber(inode))
        return attributes_of(self._store.contents, InodeNumber(inode))

    @replies
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        number = InodeNumber(inode)
        self._check_writable()
        frees = fields.update_size and attr.st_size < self._store.contents.node(number).size
        await self._changes.before_change(frees=frees)
        if fields.update_size:
            self.truncater.truncate(number, attr.st_size, ctx.uid)
        change = change_of(attr, fields)
        if change.mode is not None and change.mode & SET_ID:
            await self._privileges.grant(number)
        if not fields.update_size or not change.is_empty():
            self._privileges.check(number)  # a write before this change of the times
            self._store.attributes.set(number, change)
            self._privileges.time_changed(number)
        return attributes_of(self._store.contents, number)

    @replies
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        if (carried := session_io.take_carried()) is not None:
            return await self.carried.answer(*carried, ctx)
        if name == _STORE_ATTRIBUTE:
            # It may have been renamed since it was opened.
            return os.readlink(os.fsencode(self._store.directory.link))
        if name == _DAEMON_ATTRIBUTE:
            return daemon_attribute(self._store.directory)
        if name == CAPABILITIES:
            self._privileges.check(InodeNumber(inode))
        return self._store.attributes.get(InodeNumber(inode), name)

    @replies
    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        if name.startswith(OWN_PREFIX):
            raise NotPermitted(f"{name.decode(errors='replace')} is reserved for modelfs")
        if name == CAPABILITIES:
            await self._privileges.grant(InodeNumber(inode))
        async with self._changes.of_rows(NAME_ROOM + len(value), ctx.pid):
            self._store.attributes.put(InodeNumber(inode), name, value)

    @replies
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        visible: list[XAttrNameT] = []
        size = 0
        for name in self._store.attributes.names(InodeNumber(inode)):
            # The kernel denies users access to trusted attributes, and leaves it to the file system
            # to leave them out of listings.
            if not ctx.uid or not name.startswith(b"trusted."):
                visible.append(XAttrNameT(name))
                size += len(name) + 1
            if size > LISTING_MAX:
                raise AttributeTooLarge(f"inode {inode} has too many extended attributes to list")
        return visible

    @replies
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        await self._changes.before_change(frees=True)
        self._store.attributes.remove(InodeNumber(inode), name)

    @replies
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        garbage = await self._gc.shown_bytes()
        return statvfs_of(self._store.space.room(garbage + self._store.staging.wholes.copies.bytes))

    # -- files

    @replies
    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        await self._ingest.before_create()
        entry = await self._created(parent_inode, name, mode, ctx)
        return await self._opened(InodeNumber(entry.st_ino), flags, ctx), entry

    @replies
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        if wants_to_write(flags) or flags & os.O_TRUNC:
            self._check_writable()
        if flags & os.O_TRUNC:
            await self._changes.before_change(frees=True)
            await self.truncater.truncate_at_open(InodeNumber(inode), ctx.uid)
        return await self._opened(InodeNumber(inode), flags, ctx)

    @replies
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        # The stub requires bytes. pyfuse3 accepts any buffer, and replies before this task waits.
        return await self._reader.read(self._handles[fh], off, size)  # type: ignore[return-value]

    @replies
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        handle = self._handles[fh]
        await self._changes.before_change()
        # libfuse asks the kernel to leave this to the file system (see `session_io`).
        self._store.attributes.drop_privileges(handle.inode)
        write = partial(self._writer.write, handle.inode, off, buf)
        try:
            written = await self._shortage.write(len(buf), (handle.inode, off), handle.pid, write)
        except (StoreFull, OSError) as exc:
            if exc.errno not in FULL:
                raise
            path = os.fsdecode(self._store.namespace.path_of(handle.inode))
            if isinstance(exc, StoreFull):
                raise StoreFull(f"{path}: {exc}") from exc
            exc.filename = path  # for the log
            raise
        self._ingest.wrote(handle.inode, off, off + written)
        return written

    # There is no `flush`. Before it the kernel sends the dirty pages of a closed file anyway, and
    # after the first ENOSYS it sends no more flushes. The end of an open file is `release`.

    @replies
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._durability.make_durable(self._handles[fh].inode)

    @silent
    async def release(self, fh: FileHandleT) -> None:
        closed = self._handles.close(fh)
        if closed.is_passed:
            self.passthrough.close(closed.inode, writable=closed.writable)
        elif not closed.writable:
            self._hot.closed(closed)
        if closed.writable and not self._handles.is_open_for_writing(closed.inode):
            self._ingest.closed(closed.inode)
        if closed.is_passed:
            self._privileges.check(closed.inode)

    # -- helpers

    async def _created(
        self, folder: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext, rdev: int = 0
    ) -> EntryAttributes:
        owner = Owner(ctx.uid, ctx.gid)
        async with self._changes.of_names(ctx.pid):
            node = self._store.namespace.create(InodeNumber(folder), name, mode, owner, rdev)
        return self.lookups.entry(node.inode)

    async def _opened(self, inode: InodeNumber, flags: FlagT, ctx: RequestContext) -> FileInfo:
        fh = self._opener.open(inode, flags, ctx.pid)
        try:
            await self._opener.prepare(fh)
            return self._opener.reply(fh)
        except BaseException:
            await self.release(fh)
            raise

    def _check_writable(self) -> None:
        if self._store.read_only:
            raise StoreReadOnly("the store is mounted read-only")
