"""Repair of a damaged sample, and every byte of it before and after."""

import hashlib
import stat
from pathlib import Path

from modelfs.errors import CorruptData
from modelfs.jobs.check.fsck import check
from modelfs.jobs.repair.run import Outcome, RepairReport, repair
from modelfs.store.files.dentries import Dentries
from modelfs.store.index.tables import ROOT, InodeNumber, Table, number_key, pair_key, triple_key
from modelfs.store.store import Store
from tests.support.run_jobs import ingest_all
from tests.support.sample_store import Sample
from tests.support.stores import new_file

# By path: the whole content, or the bytes of each readable piece and None for the others.
Contents = dict[bytes, bytes | None]

PIECE = 512


def walk(dentries: Dentries, folder: InodeNumber = ROOT, path: bytes = b"") -> dict[bytes, int]:
    """Return the inode of every path, by the listings."""
    found: dict[bytes, int] = {}
    for _, name, inode in dentries.listing(folder, 0, 1000):
        found[path + b"/" + name] = inode
        found |= walk(dentries, inode, path + b"/" + name)
    return found


def files_of(path: Path) -> Contents:
    """Return the content of every file of a store, None where it cannot be read whole."""
    with Store(path) as store:
        return {
            name: read(store, inode)
            for name, inode in walk(store.dentries).items()
            if stat.S_ISREG(store.inodes.get(InodeNumber(inode)).mode)
        }


def read(store: Store, inode: int, start: int = 0, size: int | None = None) -> bytes | None:
    node = store.contents.node(InodeNumber(inode))
    try:
        return store.contents.read(node.inode, start, node.size if size is None else size)
    except CorruptData:
        return None


def state_of(path: Path) -> dict[str, str]:
    """Return a hash of each file of a store, without LMDB's lock file."""
    return {
        str(file): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "lock.mdb"
    }


def unreadable(path: Path, name: bytes, good: bytes) -> set[int]:
    """Return the pieces of a file that cannot be read; the others must be right."""
    with Store(path) as store:
        inode = walk(store.dentries)[name]
        failed = set()
        for start in range(0, len(good), PIECE):
            got = read(store, inode, start, PIECE)
            if got is None:
                failed.add(start // PIECE)
            else:
                assert got == good[start : start + PIECE], start
        return failed


def mend(sample: Sample, *, data: bool = True) -> RepairReport:
    """Repair a damaged sample, and check that it is sound at once, after opening, and closed."""
    assert sample.findings(data=data) != []
    report = repair(sample.path, data=data)
    assert report.after.findings == []
    assert report.found != []
    assert report.actions != []
    with Store(sample.path) as store:
        assert check(store, data=data) == []
    with Store(sample.path, read_only=True) as store:
        assert check(store, data=data) == []
    return report


def lost_files(report: RepairReport) -> set[bytes]:
    """Return the paths that repair reports as lost, in whole or in part."""
    return {
        path
        for action in report.actions
        if action.outcome is Outcome.QUARANTINED
        for path in action.files
    }


def lost_in(path: Path) -> tuple[int, int]:
    with Store(path, read_only=True) as store:
        statistics = store.inventory.statistics()
        return statistics.lost_chunks, statistics.lost_bytes


def check_losses(found: Contents, good: Contents, report: RepairReport) -> set[bytes]:
    """Return which files fail to read; the report has to name them, and no other may differ."""
    failed = {path for path, data in found.items() if data is None}
    assert failed <= lost_files(report)
    assert {path: data for path, data in found.items() if data is not None} == {
        path: data for path, data in good.items() if path not in failed
    }
    return failed


def bytes_of(good: Contents, path: bytes) -> bytes:
    data = good[path]
    assert data is not None
    return data


def write_again(path: Path, name: bytes, data: bytes) -> None:
    """Write a good copy under another name, and take it in."""
    with Store(path) as store:
        new_file(store, name, data)
        ingest_all(store)


def drop_dentry(sample: Sample) -> None:
    """Delete the row that finds a name."""
    sample.delete(Table.DENTRIES, number_key(sample.folder) + b"text")


def drop_line(sample: Sample) -> None:
    """Delete a name's line of its directory's listing."""
    cookie = sample.dentry(sample.folder, b"text").cookie
    sample.delete(Table.LISTING, pair_key(sample.folder, cookie))


def drop_parent(sample: Sample) -> None:
    """Delete the row that leads from an inode to its name."""
    cookie = sample.dentry(sample.folder, b"text").cookie
    sample.delete(Table.PARENTS, triple_key(sample.text, sample.folder, cookie))
