"""mkfs: creates an empty store."""

import os
import secrets
import stat
import uuid
from pathlib import Path
from typing import Final

from modelfs.errors import DirectoryNotEmpty, InvalidArgument
from modelfs.formats.layout import Format
from modelfs.store.disk.descriptors import sync_folder
from modelfs.store.files.clock import now_ns
from modelfs.store.files.inodes import Inodes
from modelfs.store.folder import FORMAT_FILE, FORMAT_TEXT, INDEX, LOCK_FILE, PACKS, STAGING
from modelfs.store.index.counters import NEXT_CHUNK, NEXT_INODE, NEXT_PACK, Counters
from modelfs.store.index.index import Index
from modelfs.store.index.records import (
    CHUNK_SIZE_MAX,
    CHUNK_SIZE_MIN,
    FORMAT_VERSION,
    SUPERBLOCK,
    Inode,
    Superblock,
)
from modelfs.store.index.tables import ROOT, Table

CHUNK_SIZE: Final = 1 << 20


def create_store(folder: Path, *, chunk_size: int = CHUNK_SIZE) -> None:
    """Create an empty store, readable by its owner only, in a new or empty folder.

    Args:
        folder: of the store; its parent exists.
        chunk_size: bytes; long tensors are cut into chunks of this size.

    Raises:
        InvalidArgument: the chunk size is not a multiple of 4 KiB, from 4 KiB to 1 GiB.
        DirectoryNotEmpty: the folder is not empty.
        OSError: a file or folder cannot be created.
    """
    if not CHUNK_SIZE_MIN <= chunk_size <= CHUNK_SIZE_MAX or chunk_size % CHUNK_SIZE_MIN:
        raise InvalidArgument("the chunk size must be a multiple of 4KiB, from 4KiB to 1GiB")
    folder.mkdir(mode=0o700, exist_ok=True)
    if any(folder.iterdir()):
        raise DirectoryNotEmpty(f"{folder} is not empty; name a new or empty folder")
    folder.chmod(0o700)
    for name in (INDEX, PACKS, STAGING):
        (folder / name).mkdir(mode=0o700)
    (folder / LOCK_FILE).touch(0o600)
    index = Index(folder / INDEX)
    with index.change():
        _put_first_rows(index, chunk_size)
    index.commit()
    index.close()
    sync_folder(folder / INDEX)
    sync_folder(folder)
    # Last, when all else is durable: a folder with a format file is a store.
    format_file = folder / FORMAT_FILE
    format_file.touch(0o600)
    format_file.write_text(FORMAT_TEXT.format(version=FORMAT_VERSION))
    with format_file.open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(folder)
    sync_folder(folder.absolute().parent)


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
