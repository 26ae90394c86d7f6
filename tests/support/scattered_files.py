"""Stores whose files lie scattered over the packs."""

from typing import Final

from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store
from tests.support.run_jobs import drain, ingest_all
from tests.support.stores import CHUNK, new_file, noise, stored_file

# So many that a chunk of each, side by side, is more than a gap in a run.
FILES: Final = 10
CHUNKS: Final = 40


def content(number: int) -> bytes:
    """Return what file `number` of `scatter` has."""
    return b"".join(noise(CHUNK, at) for at in range(number, FILES * CHUNKS, FILES))


def scatter(store: Store) -> list[InodeNumber]:
    """Make files whose chunks take turns in a pack, as if they had been written side by side."""
    whole = b"".join(noise(CHUNK, at) for at in range(FILES * CHUNKS))
    stored_file(store, b"whole", whole)
    inodes = [new_file(store, b"%d" % number, content(number)) for number in range(FILES)]
    ingest_all(store)
    gone = store.namespace.unlink(ROOT, b"whole")
    drain(store.orphans.remove(gone))
    store.commit()
    return inodes
