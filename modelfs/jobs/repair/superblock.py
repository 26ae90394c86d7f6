"""Repair of an index without a superblock: a new one is made.

The store's uuid is in every pack. A chunk size that is too large does no harm. The seed of the
hashes is lost, but hashes only find chunks of the same content: with a new seed, all chunks are
hashed again.
"""

import contextlib
import secrets
import time
import uuid
from collections import Counter

from modelfs.errors import CorruptIndex
from modelfs.jobs.repair.quarantine import Quarantine
from modelfs.store.create import CHUNK_SIZE
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import (
    PACKS,
    check_format,
    open_content_folder,
    open_index_folder,
    read_superblock,
)
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.index import Index
from modelfs.store.index.superblock import CHUNK_SIZE_MAX, SUPERBLOCK, Superblock
from modelfs.store.index.tables import Table
from modelfs.store.packs.header import read_header


def restore_superblock(store: Directory, quarantine: Quarantine) -> str | None:
    """Give an index a superblock if none can be read, and return a message; None if one can.

    The caller has the store's lock. Until all chunks are hashed again, new files share no chunks
    with old ones; every file reads as before.

    Raises:
        CorruptIndex: LMDB refuses the index.
        FolderMissing: the packs are missing, which have the store's uuid; nothing has changed.
        OSError: the disk is full or failed.
    """
    index = Index(open_index_folder(store))
    try:
        read_superblock(index)
    except CorruptIndex:
        if (old := index.rows.stored(Table.META, SUPERBLOCK)) is not None:
            quarantine.add_row(Table.META, SUPERBLOCK, old, "it does not decode")
        quarantine.flush()
        with index.change():
            index.put(Table.META, SUPERBLOCK, _new_superblock(store, index).to_bytes())
        index.commit()
        return "the superblock was lost: a new one is made, and all chunks are hashed again"
    else:
        return None
    finally:
        index.close()


def _new_superblock(store: Directory, index: Index) -> Superblock:
    """Return a superblock with the uuid of most packs, and room for the longest chunk."""
    longest = CHUNK_SIZE
    for key, value in index.pages(Table.CHUNKS, damaged=set()):
        with contextlib.suppress(CorruptIndex):
            longest = max(longest, Chunk.from_row(key, value).size)
    packs = open_content_folder(store, PACKS)
    headers = (read_header(packs, name) for name in packs.names())
    uuids = Counter(header.uuid for header in headers if header is not None)
    return Superblock(
        version=check_format(store),
        chunk_size=max(CHUNK_SIZE, min(longest, CHUNK_SIZE_MAX)),
        hash_seed=secrets.randbits(64),
        uuid=uuids.most_common(1)[0][0] if uuids else uuid.uuid4().bytes,
        created_ns=time.time_ns(),
    )
