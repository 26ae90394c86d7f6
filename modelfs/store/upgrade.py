"""Upgrade: a store of an older format becomes one of this version's format when it is opened.

Example. A store of format 2 is opened for writing. `FORMAT` gets the number 4, so an older modelfs
refuses the store from now on. One commit then gives each row its checksum, each inode its totals,
and the superblock the number 4. If the power fails before this commit, the next open repeats it.
"""

import dataclasses

from modelfs.store.disk.directory import Directory
from modelfs.store.files.inode_totals import count_totals, with_totals
from modelfs.store.folder import FORMAT_FILE, FORMAT_NEW, check_format, write_format
from modelfs.store.index.committed import Convert
from modelfs.store.index.counters import OPTIMIZE_AGAIN, OPTIMIZE_WALK, Counters
from modelfs.store.index.index import Index
from modelfs.store.index.superblock import FORMAT_VERSION, SUPERBLOCK, Superblock
from modelfs.store.index.tables import Table


def begin_upgrade(folder: Directory, index: Index, block: Superblock) -> Superblock:
    """Set the format of an older store to `FORMAT_VERSION`, and return its new superblock.

    The next commit has the rest: it is that of `commit_upgrade`. The new number in the folder keeps
    older versions from opening the store, before this version writes rows that they cannot read. A
    crash before the commit leaves a superblock that is older than the format file; the next open
    for writing repeats the upgrade.

    Raises:
        OSError: the disk is full or failed.
    """
    if check_format(folder) < FORMAT_VERSION:
        folder.unlink(FORMAT_NEW)  # of a crash
        write_format(folder, FORMAT_NEW)
        folder.rename(FORMAT_NEW, FORMAT_FILE)
        folder.sync()
    if block.version >= FORMAT_VERSION:
        return block
    new = dataclasses.replace(block, version=FORMAT_VERSION)
    with index.change():
        if block.version < 2:
            # Format 1 has no list of files to optimize: the optimizer walks over all files.
            Counters(index).set(OPTIMIZE_WALK, 1)
            Counters(index).set(OPTIMIZE_AGAIN, 0)
        index.put(Table.META, SUPERBLOCK, new.to_bytes())
    return new


def commit_upgrade(index: Index) -> None:
    """Commit all changes, and convert the rows if they are those of formats 1 to 3.

    Raises: as `Index.commit`; no row is converted then.
    """
    index.commit(None if index.rows.have_checksums() else _conversion(index))


def _conversion(index: Index) -> Convert:
    """Return the function that converts a row of formats 1 to 3, by the rows that there are now.

    Inodes get their totals. All other values stay as they are, since all old forms are still read.
    """
    totals = count_totals(index.pages)

    def convert(table: Table, key: bytes, value: bytes) -> bytes:
        return with_totals(totals, key, value) if table is Table.INODES else value

    return convert
