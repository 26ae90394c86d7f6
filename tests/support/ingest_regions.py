"""Ingest of a file region by region, so that a test can change the file in between."""

from modelfs.jobs.ingest.apply import Applier
from modelfs.jobs.ingest.passes import Pass, Region
from modelfs.jobs.ingest.worker import Worker
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.run_jobs import drain


def begin_region(store: Store, inode: InodeNumber, *, complete: bool = True) -> tuple[Pass, Region]:
    """Begin a pass and its first region."""
    drain(store.flusher.trim(inode))
    applier = Applier(store)
    file_pass = applier.begin_pass(inode, complete=complete)
    region = applier.next_region(file_pass)
    assert region is not None
    return file_pass, region


def run(store: Store, region: Region) -> None:
    """Do the work of a region, and publish its chunks."""
    done, result = Worker(store).work([region], store.writer())
    assert done == [region]
    drain(store.publish(result))


def apply(store: Store, region: Region) -> None:
    drain(Applier(store).apply(region))
