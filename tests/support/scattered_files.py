"""Stores with files that are scattered over packs."""

from collections import Counter
from typing import Final

from modelfs.jobs.defrag.rewrite import Defragmenter
from modelfs.store.index.tables import ROOT, ChunkId, InodeNumber, Table
from modelfs.store.store import Store
from tests.support.run_jobs import drain, ingest_all
from tests.support.stores import CHUNK, new_file, noise, stored_file

# So many that one chunk of each, side by side, is larger than a gap within a run.
FILES: Final = 10
CHUNKS: Final = 40


def content(number: int) -> bytes:
    """Return the content of file `number` of `scatter`."""
    return b"".join(noise(CHUNK, at) for at in range(number, FILES * CHUNKS, FILES))


def scatter(store: Store) -> list[InodeNumber]:
    """Store files whose chunks alternate in a pack, as if they were written side by side."""
    whole = b"".join(noise(CHUNK, at) for at in range(FILES * CHUNKS))
    stored_file(store, b"whole", whole)
    inodes = [new_file(store, b"%d" % number, content(number)) for number in range(FILES)]
    ingest_all(store)
    gone = store.namespace.unlink(ROOT, b"whole")
    drain(store.orphans.remove(gone))
    store.commit()
    return inodes


def runs(store: Store, inodes: list[InodeNumber]) -> list[int]:
    """Return the number of runs of each file."""
    measured = Defragmenter(store).measure()
    by_inode = dict(zip(measured.reads.inodes.tolist(), measured.runs.tolist(), strict=True))
    return [by_inode[inode] for inode in inodes]


def packs_of(store: Store) -> Counter[int]:
    """Return the number of chunks in each pack."""
    return Counter(
        store.chunks.record(ChunkId(int.from_bytes(key, "big"))).pack
        for key, _ in store.index.pages(Table.CHUNKS)
    )
