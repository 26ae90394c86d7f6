"""mkfs: creates an empty store."""

import contextlib
import os
import secrets
import shutil
import stat
import uuid
from collections.abc import Iterator
from functools import partial
from itertools import filterfalse
from pathlib import Path
from typing import Final

from modelfs.errors import DirectoryNotEmpty, InvalidArgument, NotADirectory, StoreNotTrusted
from modelfs.formats.layout import Format
from modelfs.store.disk.directory import FOLDER_MODE, Directory
from modelfs.store.files.clock import now_ns
from modelfs.store.files.inodes import Inodes
from modelfs.store.folder import (
    FORMAT_FILE,
    INDEX,
    LOCK_FILE,
    PACKS,
    STAGING,
    store_around,
    write_format,
)
from modelfs.store.index.counters import NEXT_CHUNK, NEXT_INODE, NEXT_PACK, Counters
from modelfs.store.index.index import Index
from modelfs.store.index.records import Inode
from modelfs.store.index.superblock import (
    CHUNK_SIZE_MAX,
    CHUNK_SIZE_MIN,
    FORMAT_VERSION,
    SUPERBLOCK,
    Superblock,
)
from modelfs.store.index.tables import ROOT, Table

CHUNK_SIZE: Final = 1 << 20
LOST_FOUND: Final = "lost+found"


def create_store(folder: Path, *, chunk_size: int = CHUNK_SIZE) -> None:
    """Create an empty store, readable by its owner only, in a new or empty folder.

    Args:
        folder: of the store; its parent exists.
        chunk_size: bytes; long tensors are cut into chunks of this size.

    Raises:
        InvalidArgument: the chunk size is not a multiple of 4 KiB, from 4 KiB to 1 GiB; or the
            folder lies in a store, whose repair or removal would take it along.
        NotADirectory: there is something else than a folder.
        StoreNotTrusted: the folder is another user's.
        DirectoryNotEmpty: the folder is a store already, or has more than the `lost+found` of a new
            file system, or another process makes a store there at the moment.
        OSError: a file or folder cannot be created, or a crash could undo the store.
    """
    if not CHUNK_SIZE_MIN <= chunk_size <= CHUNK_SIZE_MAX or chunk_size % CHUNK_SIZE_MIN:
        raise InvalidArgument("the chunk size must be a multiple of 4KiB, from 4KiB to 1GiB")
    if (around := store_around(folder)) is not None:
        raise InvalidArgument(f"{folder} is inside the store {around}; name a folder outside of it")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    directory = _open_empty(folder)
    made: list[str] = []
    try:
        _make_files(directory, chunk_size, made)
    except FileExistsError as exc:
        _undo(directory, made)
        raise DirectoryNotEmpty(
            f"{folder} is not empty any more; name another folder, "
            "or use the store that another mkfs makes there"
        ) from exc
    except BaseException:
        _undo(directory, made)
        raise
    Directory(folder.absolute().parent).sync()


def _make_files(directory: Directory, chunk_size: int, made: list[str]) -> None:
    """Make the files of a new store; `made` gets the name of each as soon as it is made.

    Raises:
        FileExistsError: another process makes a store there. It has made the first folder.
    """
    make_folder = partial(os.mkdir, mode=FOLDER_MODE, dir_fd=directory.fd)
    with directory.naming("."):
        # No Ctrl-C comes between a folder and the note of it.
        made.extend(filterfalse(make_folder, (INDEX, PACKS, STAGING)))
    with _noted(made, LOCK_FILE):
        os.close(directory.open(LOCK_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    index = Index(directory.subdirectory(INDEX))
    with index.change():
        _put_first_rows(index, chunk_size)
    index.commit()
    index.close()
    index.directory.sync()
    directory.sync()
    # Last, when all else is durable: a folder with a format file is a store.
    with _noted(made, FORMAT_FILE):
        write_format(directory, FORMAT_FILE)
    made.clear()  # it may be mounted by now
    directory.sync()


@contextlib.contextmanager
def _noted(made: list[str], name: str) -> Iterator[None]:
    """Note a file that the block makes, also if it fails after that, unless it exists already."""
    made.append(name)
    try:
        yield
    except FileExistsError:
        made.remove(name)
        raise


def _undo(directory: Directory, made: list[str]) -> None:
    """Remove the files of a store that was not finished, such as on a full disk.

    Such a folder is neither empty nor a store, so every command would refuse it, mkfs too. Files of
    another process stay in any case.
    """
    for name in reversed(made):  # the first folder goes last, as it keeps other processes out
        with contextlib.suppress(OSError):
            directory.unlink(name)
        shutil.rmtree(name, ignore_errors=True, dir_fd=directory.fd)


def _open_empty(folder: Path) -> Directory:
    """Open an empty folder of this user's, and close it to others."""
    try:
        directory = Directory(folder)
    except NotADirectoryError as exc:
        raise NotADirectory(f"{folder} is not a folder; name a new or empty one") from exc
    if directory.owner != os.geteuid():
        # Its owner could exchange everything in it beneath a mount.
        raise StoreNotTrusted(
            f"permission denied: {folder} ({directory.whose}, "
            f"and this is a process of user {os.geteuid()})"
        )
    _check_empty(directory)
    os.chmod(directory.link, 0o700)
    _check_empty(directory)  # others may have written in it until then
    return directory


def _check_empty(directory: Directory) -> None:
    above = os.stat("..", dir_fd=directory.fd)
    is_top = above.st_dev != directory.identity.device  # of a file system
    names = set(os.listdir(directory.link))
    if FORMAT_FILE in names:
        raise DirectoryNotEmpty(f"{directory.path} is a store already; name another folder")
    if names - ({LOST_FOUND} if is_top else set()):
        raise DirectoryNotEmpty(f"{directory.path} is not empty; name a new or empty folder")


def _put_first_rows(index: Index, chunk_size: int) -> None:
    """Put the superblock, the first numbers and the root directory."""
    now = now_ns()
    block = Superblock(
        version=FORMAT_VERSION,
        chunk_size=chunk_size,
        hash_seed=secrets.randbits(64),
        uuid=uuid.uuid4().bytes,
        created_ns=now,
    )
    index.put(Table.META, SUPERBLOCK, block.to_bytes())
    counters = Counters(index)
    for counter, first in ((NEXT_INODE, ROOT + 1), (NEXT_CHUNK, 1), (NEXT_PACK, 1)):
        counters.set(counter, first)
    root = Inode(
        inode=ROOT,
        mode=stat.S_IFDIR | 0o755,
        uid=os.geteuid(),
        gid=os.getegid(),
        nlink=2,
        size=0,
        rdev=0,
        atime_ns=now,
        mtime_ns=now,
        ctime_ns=now,
        parent=ROOT,
        format=Format.PLAIN,
    )
    Inodes(index, counters).put(root)
