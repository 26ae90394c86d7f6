"""An open directory of a store, and the files in it by name. No symbolic link is followed.

Theory of operation. A path is looked up again at each use, and a symbolic link in it may lead
anywhere. So the folder of a store is opened once, as a descriptor, and everything in it by name and
relative to that descriptor. A folder that is renamed or replaced meanwhile makes no difference: the
descriptor stays that of the store. A file in it is opened only if it is a regular file of the
folder's owner, and a folder in it only if it is a real one of that owner. Other users may write in
neither, but for LMDB's lock file, in which readers have slots. A file of any kind may be deleted,
renamed, or get a second name: these change names of the folder, and follow no link. `store.folder`
has the rules for the folder itself. Git has the same rules for repositories, since CVE-2022-24765:
safe.directory in git-config(1).

With `trust` all owners and modes are accepted; symbolic links are not. Root is more careful in the
folder of another user: files that root makes there are the folder's owner's from the beginning, so
that the owner can use the store afterwards, and files of third users, or root's own, are refused.
The owner may have moved them there from another folder of his, and could neither read nor change
them himself. `owners` has the rules for owners that a file system makes up.

A file is opened without a wait: a FIFO in its place would block open(2) for ever. For a regular
file O_NONBLOCK has no meaning.

Example. User 1000 made `staging` in a store a link to /etc, and root runs `modelfs gc --trust` with
it. The folder is opened as descriptor 5; `subdirectory("staging")` is openat(5, "staging",
O_NOFOLLOW), which fails. So no file of /etc is taken for a staging file, and deleted. If he moves a
file of root's to `daemon.log`, a mount with --trust is refused, and nothing is appended to it.
"""

import errno
import os
import stat
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Self

from modelfs.errors import IrregularFile, StoreNotTrusted
from modelfs.shell_word import shell_word
from modelfs.store.disk.closer import closer
from modelfs.store.disk.owners import as_user, user_behind
from modelfs.store.disk.read_access import give_group, read_bits

# For every file of a store.
NO_LINK: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
READ_MAX: Final = 4096  # bytes
OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
# LMDB's lock file. A team's readers may write it, see `index.lock_file`.
SHARED_FILE: Final = "lock.mdb"


class Identity(NamedTuple):
    """Device and inode number of a file or folder: another one at its path has others."""

    device: int
    inode: int

    def __str__(self) -> str:
        return f"{self.device}:{self.inode}"


def link_to(fd: int) -> str:
    """Return a path of an open file or folder, which lasts as long as the descriptor."""
    return f"/proc/self/fd/{fd}"


class Directory:
    """An open directory. It is closed at the latest when nothing refers to it. Any thread.

    Attributes:
        fd: its descriptor, opened with O_PATH.
        path: where it was when it was opened, for messages.
        store: where the store's folder was, for messages.
        owner: user ID of the owner of the store's folder.
        user_behind: user ID of the user who makes up the owners of its files, None if they count.
        trust: whether files of other owners and modes are accepted.
        identity: device and inode number.
    """

    __slots__ = (
        *("__weakref__", "_close", "fd", "identity", "owner", "path", "store", "trust"),
        "user_behind",
    )

    def __init__(self, path: Path, *, trust: bool = False, above: Self | None = None) -> None:
        """Open a directory.

        Args:
            path: of it; symbolic links in it are followed, unless there is a directory `above`.
            trust: whether to accept other owners and all modes.
            above: the directory of the store that it lies in.

        Raises:
            StoreNotTrusted: it lies `above`, and is another user's, or open to others.
            IrregularFile: it lies `above`, and is a link.
            OSError: it cannot be opened.
        """
        opened: list[int] = []
        self._close = closer(opened)
        weakref.finalize(self, self._close)
        self.fd: int
        self.owner: int
        self.trust = trust
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        if above is None:
            opened.extend(map(os.open, (path,), (flags,)))
        else:
            open_in_it = partial(os.open, dir_fd=above.fd)
            with above.naming(path.name):
                opened.extend(map(open_in_it, (path.name,), (flags | os.O_NOFOLLOW,)))
        self.fd = opened[0]
        try:
            self.path = Path(os.readlink(self.link)) if above is None else path
        except FileNotFoundError as exc:
            # Sockets, and the files of LMDB, are opened by such links.
            raise OSError(errno.ENOSYS, "proc(5) is not mounted", "/proc") from exc
        self.store: Path = self.path if above is None else above.store
        status = os.fstat(self.fd)
        self.user_behind = user_behind(self.fd)
        self.owner = self._owner_in(status) if above is None else above.owner
        self.identity = Identity(status.st_dev, status.st_ino)
        if above is not None:
            self._check_owner(path, status)
            self.check_private()

    def close(self) -> None:
        """Close it. Later uses raise OSError."""
        self.fd = -1  # first: the kernel gives the number to another file
        self._close()

    @property
    def link(self) -> str:
        """A path of the directory as long as this object exists, wherever it is moved."""
        return link_to(self.fd)

    @property
    def is_own(self) -> bool:
        """Whether no user but this one and root can change its files, or the names of them."""
        return not self.trust and self.owner in (0, os.geteuid())

    @property
    def whose(self) -> str:
        """The owner of the store, for messages: "owned by user 1000"."""
        place = "owned by" if self.user_behind is None else "in a FUSE mount of"
        return f"{place} user {self.owner}"

    def _owner_in(self, status: os.stat_result) -> int:
        """Return the user ID of the owner of a file in the directory."""
        return status.st_uid if self.user_behind is None else self.user_behind

    def _check_owner(self, path: Path, status: os.stat_result) -> None:
        """Check the owner of a file or folder of the store.

        Raises:
            StoreNotTrusted: it is another user's.
        """
        owner = self._owner_in(status)
        if owner != self.owner and (self._is_lent or not self.trust):
            raise StoreNotTrusted(_foreign(path, owner, self))

    def may_write(self) -> bool:
        """Whether modes let this process write in the directory."""
        try:
            return os.access(".", os.W_OK, dir_fd=self.fd, effective_ids=True)
        except OSError:
            return False

    def check_private(self) -> None:
        """Check that only the owner may write in the directory, unless all users are trusted.

        Raises:
            StoreNotTrusted: others may.
        """
        mode = os.fstat(self.fd).st_mode
        if mode & OTHERS_WRITE and not self.trust:
            raise StoreNotTrusted(_writable(self.path, mode, "in it", self))

    # -- folders in it

    def subdirectory(self, name: str) -> "Directory":
        """Open a directory that lies in this one.

        Raises:
            StoreNotTrusted: it is another user's, or others may write in it.
            IrregularFile: it is a link.
            OSError: it does not exist, or cannot be opened.
        """
        return Directory(self.path / name, trust=self.trust, above=self)

    def make_subdirectory(self, name: str) -> None:
        """Make a directory for its owner only; the caller makes the name durable.

        Raises:
            FileExistsError: the name exists.
        """
        with self.naming(name), self.making():
            os.mkdir(name, FOLDER_MODE, dir_fd=self.fd)

    def remove_subdirectory(self, name: str) -> None:
        """Remove an empty directory.

        Raises:
            OSError: it is not empty, or cannot be removed.
        """
        with self.naming(name):
            os.rmdir(name, dir_fd=self.fd)

    def making(self) -> AbstractContextManager[None]:
        """Let files that this thread makes inside the block be the owner's of the store."""
        return as_user(self.owner) if self._is_lent else nullcontext()

    # -- files in it

    def open(self, name: str, flags: int) -> int:
        """Open a file, and return its descriptor.

        A new file may be read by those who may read the directory: see `read_access`.

        Raises:
            StoreNotTrusted: it is another user's, or others may write it.
            IrregularFile: it is not a regular file.
            OSError: it cannot be opened.
        """
        opened: list[int] = []
        close = closer(opened)
        try:
            self.open_into(opened, name, flags)
            return opened[0]
        except BaseException:
            close()
            raise

    @contextmanager
    def opened(self, name: str, flags: int) -> Iterator[int]:
        """Open a file inside the block. Raises what `open` does."""
        opened: list[int] = []
        close = closer(opened)
        try:
            self.open_into(opened, name, flags)
            yield opened[0]
        finally:
            close()

    def open_into(self, opened: list[int], name: str, flags: int) -> None:
        """Open a file, and append its descriptor to a list. Raises what `open` does."""
        open_in_it = partial(os.open, mode=MODE, dir_fd=self.fd)
        bits = read_bits(self.fd) if flags & os.O_CREAT else 0
        is_new = bool(bits and flags & os.O_EXCL)
        try:
            with self.naming(name), self.making() if flags & os.O_CREAT else nullcontext():
                if bits and not is_new:
                    with suppress(FileExistsError):
                        exclusive = flags | os.O_EXCL | NO_LINK
                        opened.extend(map(open_in_it, (name,), (exclusive,)))
                        is_new = True
                if not opened:
                    opened.extend(map(open_in_it, (name,), (flags | NO_LINK,)))
        except PermissionError:
            if self._is_lent and flags & os.O_CREAT and self.exists(name):
                self.status(name)  # refuses a file that is not the owner's, with the reason
            raise
        if is_new:
            bits = give_group(self.fd, opened[0], bits)
            # As the owner, since root may lack CAP_FOWNER. Some file systems have no modes.
            with self.making(), suppress(OSError):
                os.fchmod(opened[0], MODE | bits)
        self.check(name, opened[0])

    @contextmanager
    def opened_socket(self, name: str) -> Iterator[str]:
        """Yield a path for connect(2) to a socket.

        Raises:
            StoreNotTrusted: it is another user's.
            IrregularFile: it is not a socket.
            OSError: it does not exist.
        """
        with self.naming(name):
            fd = os.open(name, os.O_PATH | NO_LINK, dir_fd=self.fd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISSOCK(status.st_mode):
                raise IrregularFile(f"permission denied: {self.path / name} (not a socket)")
            self._check_owner(self.path / name, status)
            yield link_to(fd)
        finally:
            os.close(fd)

    def check(self, name: str, fd: int) -> None:
        """Check a file that was opened.

        Raises:
            StoreNotTrusted: it is another user's, or others may write it.
            IrregularFile: it is not a regular file.
        """
        status = os.fstat(fd)
        if stat.S_ISLNK(status.st_mode):
            raise IrregularFile(_link(self.path / name))
        if not stat.S_ISREG(status.st_mode):
            raise IrregularFile(_irregular(self.path / name))
        if status.st_mode & OTHERS_WRITE and name != SHARED_FILE and not self.trust:
            raise StoreNotTrusted(_writable(self.path / name, status.st_mode, "it", self))
        self._check_owner(self.path / name, status)

    @property
    def _is_lent(self) -> bool:
        """Whether this is root in the folder of another user."""
        return self.trust and self.owner != os.geteuid() == 0

    def status(self, name: str) -> os.stat_result:
        """Return the status of a file.

        Raises:
            StoreNotTrusted: it is another user's, or others may write it.
            IrregularFile: it is not a regular file.
            OSError: it does not exist.
        """
        # O_PATH: a close of such a descriptor ends no lock of LMDB's, see `index.lock_file`.
        with self.opened(name, os.O_PATH) as fd:
            return os.fstat(fd)

    def read(self, name: str) -> bytes:
        """Return the content of a short file, up to `READ_MAX`. Raises what `open` does."""
        with self.opened(name, os.O_RDONLY) as fd:
            return os.read(fd, READ_MAX)

    def exists(self, name: str) -> bool:
        """Whether there is anything of this name, even a link to nothing."""
        try:
            with self.naming(name):
                os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def names(self) -> list[str]:
        """Return the names of all regular files."""
        with self._listed() as fd, os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]

    def unlink(self, name: str) -> None:
        """Delete a file, if there is one.

        Raises:
            OSError: it cannot be deleted.
        """
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            pass
        except OSError as exc:
            exc.filename = str(self.path / name)
            raise

    def rename(self, old: str, new: str, to: "Directory | None" = None) -> None:
        """Give a file a new name, here or in another directory. A file of that name is replaced."""
        with self.naming(old):
            os.rename(old, new, src_dir_fd=self.fd, dst_dir_fd=(to or self).fd)

    def hard_link(self, old: str, new: str, to: "Directory") -> None:
        """Give a file a second name, which does not exist, in another directory."""
        with self.naming(old):
            os.link(old, new, src_dir_fd=self.fd, dst_dir_fd=to.fd, follow_symlinks=False)

    def sync(self) -> None:
        """Make the names in the directory durable: fsync(2) of a file does not."""
        with self._listed() as fd:
            os.fsync(fd)

    @contextmanager
    def _listed(self) -> Iterator[int]:
        """Open the directory itself inside the block: `fd` is for paths only."""
        with self.naming("."):
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
            try:
                yield fd
            finally:
                os.close(fd)

    @contextmanager
    def naming(self, name: str) -> Iterator[None]:
        """Let errors of the block name the whole path of a file, and refuse a symbolic link."""
        try:
            yield
        except OSError as exc:
            # With O_NOFOLLOW a link is ELOOP, and with O_DIRECTORY also ENOTDIR.
            if exc.errno in (errno.ELOOP, errno.ENOTDIR):
                mode = os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mode
                if stat.S_ISLNK(mode):
                    raise IrregularFile(_link(self.path / name)) from exc
            if exc.errno == errno.ENXIO:  # a FIFO, a socket, or a device that does not exist
                raise IrregularFile(_irregular(self.path / name)) from exc
            exc.filename = str(self.path / name)
            raise


def _link(path: Path) -> str:
    return f"permission denied: {path} (a symbolic link, and inside a store none is followed)"


def _irregular(path: Path) -> str:
    return f"permission denied: {path} (not a regular file)"


def _writable(path: Path, mode: int, place: str, folder: Directory) -> str:
    return (
        f"permission denied: {path} (other users may write {place}: its mode is "
        f"{stat.S_IMODE(mode):o}; to end that: chmod -R go-w {shell_word(folder.store)})"
    )


def _foreign(path: Path, owner: int, folder: Directory) -> str:
    wanted, sudo = folder.owner, "sudo " if os.geteuid() else ""
    return (
        f"permission denied: {path} (owned by user {owner}, and the store by user {wanted}; to "
        f"give it to that user: {sudo}chown -R {wanted} {shell_word(folder.store)})"
    )
