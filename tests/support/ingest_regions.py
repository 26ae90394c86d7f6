"""Ingest of a file region by region, so that a test can change the file in between."""

from modelfs.jobs.ingest.apply import Applier
from modelfs.jobs.ingest.passes import Pass, Region
from modelfs.jobs.ingest.worker import Worker
from modelfs.store.disk.calls import drive
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.run_jobs import drain
from tests.support.stores import new_file, stored_file


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


def shifted_copy(store: Store, content: bytes) -> InodeNumber:
    """Return a file without a staged byte whose extents are not those of its layout."""
    source = stored_file(store, b"shifted", bytes(7) + content)
    inode, at = new_file(store, b"copy"), 0
    while size := drive(store.clones.clone(source, at + 7, 1 << 40, inode, at), lambda _: None):
        at += size
    assert at == len(content)
    return inode
