"""Copies: whole files that stay after their ingest, for as long as there is room."""

import os
from collections.abc import Callable

import pytest

from modelfs.store.files.copies import SIZE_MIN, Copies
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store
from tests.support.kernel_writes import passed, passed_file, path_of, whole_of
from tests.support.run_jobs import ingest_all, ingest_file
from tests.support.stores import Box, content_of, durable, names_in, noise

MB = 1 << 20
DATA = noise(2 * MB)


@pytest.fixture
def copies(opened: Store) -> Copies:
    """The copies of a store, which may have 5 MiB."""
    copies = opened.staging.wholes.copies
    copies.size_max = 5 * MB
    return copies


def hot_file(store: Store, name: bytes, data: bytes = DATA) -> InodeNumber:
    """Create a file that the kernel has written, and that is in chunks."""
    inode = passed_file(store, name, data)
    ingest_all(store)
    assert store.staging.find(inode) is None
    return inode


def test_a_file_stays_hot_after_its_ingest(opened: Store, copies: Copies) -> None:
    """Its staging file has all of its bytes, and the store has them in chunks."""
    inode = hot_file(opened, b"f")
    assert [*copies] == [inode]
    assert copies.bytes >= len(DATA)
    assert path_of(opened, whole_of(opened, inode)).read_bytes() == DATA
    assert content_of(opened, inode) == DATA
    assert not opened.contents.is_whole(inode)


def test_the_least_recently_used_go_first(opened: Store, copies: Copies) -> None:
    """A file that is opened again stays longer."""
    inodes = [hot_file(opened, b"%d" % number, noise(2 * MB, number)) for number in range(3)]
    copies.proven(inodes[0])
    copies.shrink(5 * MB)
    assert [*copies] == [inodes[2], inodes[0]]
    copies.shrink(2 * MB)
    assert [*copies] == [inodes[0]]
    copies.shrink(0)
    assert (len(copies), copies.bytes) == (0, 0)
    opened.staging.wholes.empty_trash()
    assert names_in(opened.staging.directory.path) == set()


def test_a_copy_in_use_stays(opened: Store, copies: Copies) -> None:
    """Programs that have it open read it without a request."""
    inode = hot_file(opened, b"f")
    with passed(opened, inode, os.O_RDONLY) as fd:
        copies.shrink(0)
        assert os.pread(fd, len(DATA), 0) == DATA
        assert copies.is_in_use(inode)
        assert opened.contents.is_whole(inode)
    copies.shrink(0)
    assert copies.find(inode) is None


@pytest.mark.parametrize("size", [SIZE_MIN // 2, 6 * MB])
def test_files_that_stay_cold(opened: Store, copies: Copies, size: int) -> None:
    """Small ones, and those that are larger than all copies may be."""
    hot_file(opened, b"f", noise(size))
    assert len(copies) == 0


def test_without_a_size_none_stays(opened: Store) -> None:
    hot_file(opened, b"f")
    assert len(opened.staging.wholes.copies) == 0


def test_a_change_ends_a_copy(opened: Store, copies: Copies) -> None:
    """The next read is from the chunks and the new bytes."""
    changes: dict[bytes, Callable[[InodeNumber], object]] = {
        b"write": lambda inode: opened.writes.write(inode, 5, b"new"),
        b"truncate": lambda inode: opened.writes.truncate(inode, 100),
        b"unlink": lambda inode: opened.namespace.unlink(ROOT, b"unlink"),
    }
    for name, change in changes.items():
        inode = hot_file(opened, name, noise(2 * MB, len(name)))
        expected = content_of(opened, inode)
        change(inode)
        if name != b"unlink":
            assert copies.find(inode) is None, name
            wanted = expected[:100] if name == b"truncate" else expected[:5] + b"new" + expected[8:]
            assert content_of(opened, inode) == wanted
            durable(opened, inode)


def test_no_copy_survives_the_session(box: Box) -> None:
    """Neither an end in order, nor a crash: the next opening deletes the file."""
    for end in (box.reopen, box.crash):
        box.store.staging.wholes.copies.size_max = 5 * MB
        inode = hot_file(box.store, end.__name__.encode())
        box.store.commit()
        assert len(names_in(box.store.staging.directory.path)) == 1
        store = end()
        assert names_in(store.staging.directory.path) == set()
        assert content_of(store, inode) == DATA


def test_a_crash_before_the_commit(box: Box) -> None:
    """The last commit still has the file staged, and it is there."""
    inode = passed_file(box.store, b"f", DATA)
    durable(box.store, inode)
    box.store.staging.wholes.copies.size_max = 5 * MB
    ingest_file(box.store, inode)
    assert box.store.staging.wholes.copies.find(inode) is not None
    store = box.crash()
    assert content_of(store, inode) == DATA
    ingest_all(store)
    assert content_of(store, inode) == DATA
