"""Ingest of a whole store that is not mounted: orphans go first, whose room it may need.

Example. The daemon was killed right after a program had removed a file of 10 GB, on a disk that is
full now. The next `modelfs sync` of the store removes the inode, and its staged bytes are not put
into chunks, for which there would be no room.
"""

import contextlib

from modelfs.errors import StoreFull
from modelfs.jobs.gc.job import OrphanQueue
from modelfs.jobs.ingest.job import ingest_all
from modelfs.jobs.steps import Job
from modelfs.store.store import Store


def ingest_unmounted(store: Store) -> Job[None]:
    """Remove orphans, and put all staged bytes into chunks. Raises as `ingest_all`."""
    orphans = OrphanQueue(store, store.orphans.inodes())
    with contextlib.suppress(StoreFull, OSError):  # ingest has the same error, or has room
        yield from orphans.remove()
    yield from ingest_all(store)
