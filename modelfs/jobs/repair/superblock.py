"""Repair of an index without a superblock: what it said can be found elsewhere, or be made anew.

The store's uuid is in every pack. A chunk size that is too large does no harm. The seed of the
hashes is gone, but hashes only find candidates: with another, every chunk is to be hashed again.
"""

import secrets
import time
import uuid
from collections import Counter
from pathlib import Path

from modelfs.errors import CorruptIndex
from modelfs.jobs.repair.quarantine import Quarantine
from modelfs.store.create import CHUNK_SIZE
from modelfs.store.folder import INDEX, PACKS, check_format, read_superblock
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.index import Index
from modelfs.store.index.records import CHUNK_SIZE_MAX, SUPERBLOCK, Superblock
from modelfs.store.index.tables import Table
from modelfs.store.packs.pack import read_header


def restore_superblock(store: Path, quarantine: Quarantine) -> str | None:
    """Give an index a superblock if it has none that can be read, and say so.

    For who has the store's lock. Until all chunks are hashed again, nothing new is shared with
    them; every file reads as it did.
    """
    index = Index(store / INDEX)
    try:
        read_superblock(index)
    except CorruptIndex:
        if (old := index.get(Table.META, SUPERBLOCK)) is not None:
            quarantine.add_row(Table.META, SUPERBLOCK, old, "it does not decode")
        quarantine.flush()
        with index.change():
            index.put(Table.META, SUPERBLOCK, _made_anew(store, index).to_bytes())
        index.commit()
        return "the superblock was lost: it is made anew, and all chunks are hashed again"
    else:
        return None
    finally:
        index.close()


def _made_anew(store: Path, index: Index) -> Superblock:
    headers = map(read_header, (store / PACKS).iterdir())
    uuids = Counter(header.uuid for header in headers if header is not None)
    return Superblock(
        version=check_format(store),
        chunk_size=max(CHUNK_SIZE, _longest(index)),
        hash_seed=secrets.randbits(64),
        uuid=uuids.most_common(1)[0][0] if uuids else uuid.uuid4().bytes,
        created_ns=time.time_ns(),
    )


def _longest(index: Index) -> int:
    longest = 0
    for key, value in index.pages(Table.CHUNKS):
        try:
            longest = max(longest, Chunk.from_row(key, value).size)
        except CorruptIndex:
            continue
    return min(longest, CHUNK_SIZE_MAX)
