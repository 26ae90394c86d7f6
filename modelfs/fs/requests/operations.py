"""The request handlers.

Theory of operation. A handler unpacks, calls the store, and packs. It runs to its first `await`
without interruption, so a change of the namespace needs no lock as long as it is one synchronous
call. What takes time leaves the event loop: reads that have to wait or decode, writes while the
disk is behind, fsyncs and commits. Nothing is locked across an `await`; what may change meanwhile
is dealt with where it is read again (see `store.staging` and `store.ingest`).

The kernel serialises writes and truncations of one file, except for O_TRUNC of open. It checks
permissions (`default_permissions`), keeps locks, and caches names, attributes and pages: handlers
are asked for what it does not know, or is not allowed to know, such as anything that lasts.
"""

import os
import stat
from collections.abc import Sequence
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
    InvalidArgument,
    NotFound,
    NotPermitted,
    StoreReadOnly,
)
from modelfs.fs.background.scheduler import Scheduler
from modelfs.fs.handles import Handles
from modelfs.fs.host.kernel import drop_mapped_pages
from modelfs.fs.requests import readdir as listing
from modelfs.fs.requests.attributes import (
    change_of,
    entry_of,
    is_exchange,
    is_noreplace,
    no_entry,
    statvfs_of,
)
from modelfs.fs.requests.boundary import replies, silent
from modelfs.fs.requests.reader import Reader
from modelfs.fs.requests.writer import Writer
from modelfs.store.files.namespace import Owner
from modelfs.store.folder import STORE_ATTRIBUTE
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

# Answered by every file, listed by none.
_STORE_ATTRIBUTE: Final = STORE_ATTRIBUTE.encode()
OWN_PREFIX: Final = b"user.modelfs."
# What a name or an attribute is taken to need in the index, in bytes.
NAME_ROOM: Final = 4096
# How many opens with O_TRUNC wait for the kernel's pages at the same time.
TRUNCATING_MAX: Final = 8
KNOWN_RENAME_FLAGS: Final = pyfuse3.RENAME_EXCHANGE | pyfuse3.RENAME_NOREPLACE


class Operations(pyfuse3.Operations):
    """Serve a store to the kernel."""

    supports_dot_lookup = True
    enable_writeback_cache = False  # it would hide a full disk from write(2)
    enable_acl = False

    def __init__(
        self,
        store: Store,
        handles: Handles,
        writeback: Scheduler,
        reader: Reader,
        writer: Writer,
    ) -> None:
        super().__init__()
        self._store = store
        self._handles = handles
        self._writeback = writeback
        self._reader = reader
        self._writer = writer
        self._nameless: set[InodeNumber] = set()  # that the kernel still knows
        self._truncating = trio.CapacityLimiter(TRUNCATING_MAX)
        self.begun = trio.Event()  # set when the kernel is about to send requests

    def init(self) -> None:
        # The kernel is answered before another task runs, and has then taken over what libfuse
        # wants, such as the read-ahead.
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
        return self._remembered(inode)

    @silent
    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        # The kernel sends thousands at once: the index is not asked about each.
        for inode, count in inode_list:
            number = InodeNumber(inode)
            if self._handles.forget(number, count) and number in self._nameless:
                self._nameless.discard(number)
                self._writeback.gc.unreachable(number)

    @replies
    async def mknod(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        rdev: int,
        ctx: RequestContext,
    ) -> EntryAttributes:
        return self._created(parent_inode, name, mode, ctx, rdev)

    @replies
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        return self._created(parent_inode, name, ModeT(mode | stat.S_IFDIR), ctx)

    @replies
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        self._store.space.reserve(NAME_ROOM)
        node = self._store.namespace.symlink(
            InodeNumber(parent_inode), name, target, Owner(ctx.uid, ctx.gid)
        )
        return self._remembered(node.inode)

    @replies
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(self._store.namespace.readlink(InodeNumber(inode)))

    @replies
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        self._store.space.reserve(NAME_ROOM)
        self._store.namespace.link(InodeNumber(inode), InodeNumber(new_parent_inode), new_name)
        return self._remembered(InodeNumber(inode))

    @replies
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        self._lost_name(self._store.namespace.unlink(InodeNumber(parent_inode), name))

    @replies
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        self._lost_name(self._store.namespace.rmdir(InodeNumber(parent_inode), name))

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
        await self._writeback.durability.before_rename()
        old = InodeNumber(parent_inode_old), name_old
        new = InodeNumber(parent_inode_new), name_new
        if is_exchange(flags):
            self._store.namespace.exchange(old, new)
            self._writeback.durability.replaced(self._store.namespace.lookup(*old))
            self._writeback.durability.replaced(self._store.namespace.lookup(*new))
            return
        replaced = self._store.namespace.rename(old, new, replace=not is_noreplace(flags))
        if replaced is not None:
            self._writeback.durability.replaced(self._store.namespace.lookup(*new))
            self._lost_name(replaced)

    # -- directories

    @replies
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return self._handles.open(InodeNumber(inode), writable=False)

    @replies
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        handle = self._handles[fh]
        listed = listing.entries(self._store, handle, start_id)
        for number, (cookie, name, entry, inode) in enumerate(listed, 1):
            if not pyfuse3.readdir_reply(token, FileNameT(name), entry, cookie):
                return
            if inode is not None:
                self._handles.remember(inode)
            if number % listing.READDIR_PAGE == 0:
                await trio.lowlevel.checkpoint()

    @silent
    async def releasedir(self, fh: FileHandleT) -> None:
        self._handles.close(fh)

    @replies
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self._writeback.durability.commit()

    # -- attributes

    @replies
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return entry_of(self._store.contents.node(InodeNumber(inode)))

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
        if fields.update_size:
            self._truncate(number, attr.st_size)
            if ctx.uid:
                self._store.attributes.drop_privileges(number)
        change = change_of(attr, fields)
        if not fields.update_size or not change.is_empty():
            self._store.attributes.set(number, change)
        return entry_of(self._store.contents.node(number))

    @replies
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        if name == _STORE_ATTRIBUTE:
            return os.fsencode(self._store.folder)
        return self._store.attributes.get(InodeNumber(inode), name)

    @replies
    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        if name.startswith(OWN_PREFIX):
            raise NotPermitted(f"{name.decode(errors='replace')} is the store's own")
        self._store.space.reserve(NAME_ROOM + len(value))
        self._store.attributes.put(InodeNumber(inode), name, value)

    @replies
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        names = self._store.attributes.names(InodeNumber(inode))
        return [XAttrNameT(name) for name in names if not ctx.uid or not _is_roots(name)]

    @replies
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        self._store.attributes.remove(InodeNumber(inode), name)

    @replies
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        return statvfs_of(self._store.space.room())

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
        await self._writeback.ingest.before_create()
        entry = self._created(parent_inode, name, mode, ctx)
        return self._opened(InodeNumber(entry.st_ino), flags), entry

    @replies
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        if _wants_to_write(flags) or flags & os.O_TRUNC:
            self._check_writable()
        if flags & os.O_TRUNC:
            # libfuse lets the kernel leave this to open (FUSE_ATOMIC_O_TRUNC).
            await self._drop_mapped_pages(InodeNumber(inode))
            self._truncate(InodeNumber(inode), 0)
            if ctx.uid:
                self._store.attributes.drop_privileges(InodeNumber(inode))
        return self._opened(InodeNumber(inode), flags)

    @replies
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        # The stub wants bytes; pyfuse3 takes any buffer and has replied when this task next waits.
        return await self._reader.read(self._handles[fh], off, size)  # type: ignore[return-value]

    @replies
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        inode = self._handles[fh].inode
        self._store.space.reserve(len(buf))
        # libfuse tells the kernel to leave this to us (FUSE_HANDLE_KILLPRIV).
        self._store.attributes.drop_privileges(inode)
        written = await self._writer.write(inode, off, buf)
        self._writeback.ingest.wrote(inode, off, off + written)
        return written

    # No `flush`: the kernel sends dirty pages on close before it would ask, and stops asking after
    # the first ENOSYS. A close is not the end of a file; `release` is.

    @replies
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._writeback.durability.flush(self._handles[fh].inode)
        await self._writeback.durability.commit()

    @silent
    async def release(self, fh: FileHandleT) -> None:
        closed = self._handles.close(fh)
        if closed.writable and not self._handles.being_written(closed.inode):
            self._writeback.ingest.closed(closed.inode)

    # -- shared by several

    def _created(
        self, folder: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext, rdev: int = 0
    ) -> EntryAttributes:
        self._store.space.reserve(NAME_ROOM)
        owner = Owner(ctx.uid, ctx.gid)
        node = self._store.namespace.create(InodeNumber(folder), name, mode, owner, rdev)
        return self._remembered(node.inode)

    def _opened(self, inode: InodeNumber, flags: FlagT) -> FileInfo:
        handle = self._handles.open(inode, writable=_wants_to_write(flags))
        return FileInfo(fh=handle, keep_cache=True)

    def _remembered(self, inode: InodeNumber) -> EntryAttributes:
        entry = entry_of(self._store.contents.node(inode))
        self._handles.remember(inode)  # undone by forget
        return entry

    def _lost_name(self, inode: InodeNumber) -> None:
        node = self._store.inodes.find(inode)
        if node is None or node.nlink:
            return
        if self._handles.known(inode):
            self._nameless.add(inode)
        else:
            self._writeback.gc.unreachable(inode)

    async def _drop_mapped_pages(self, inode: InodeNumber) -> None:
        # Before any other truncation the kernel waits for pages that are on their way here, but not
        # before this one: they would come afterwards, and bring back what was there. Some requests
        # have to stay free to take them.
        if self._handles.being_written(inode) and self._truncating.available_tokens:
            await trio.to_thread.run_sync(
                drop_mapped_pages, inode, limiter=self._truncating, abandon_on_cancel=True
            )

    def _truncate(self, inode: InodeNumber, size: int) -> None:
        self._store.writes.truncate(inode, size)
        if not self._handles.being_written(inode):
            self._writeback.ingest.closed(inode)

    def _check_writable(self) -> None:
        if self._store.read_only:
            raise StoreReadOnly("the store is mounted read-only")


def _is_roots(attribute: bytes) -> bool:
    # The kernel refuses these to users by name, but leaves it to the file system to list them.
    return attribute.startswith(b"trusted.")


def _wants_to_write(flags: int) -> bool:
    return flags & os.O_ACCMODE != os.O_RDONLY
