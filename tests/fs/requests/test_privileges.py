"""Set-ID bits and capabilities of files that the kernel may write unseen."""

import mmap
import os
import stat

import pytest

from modelfs.errors import NoAttribute, TextBusy
from modelfs.fs.requests.privileges import CAPABILITIES, Privileges
from modelfs.store.files.attributes import Change
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.kernel_writes import passed, passed_file, path_of, whole_of
from tests.support.run_jobs import ingest_all

SETUID = 0o4755


@pytest.fixture
def privileges(opened: Store) -> Privileges:
    async def flush(inode: InodeNumber) -> None:
        opened.flush(inode)

    return Privileges(opened, flush)


async def grant(store: Store, privileges: Privileges, inode: InodeNumber) -> None:
    await privileges.grant(inode)
    store.attributes.set(inode, Change(mode=SETUID))
    store.attributes.put(inode, CAPABILITIES, b"value")


def has_rights(store: Store, inode: InodeNumber) -> bool:
    has_bit = bool(store.inodes.get(inode).mode & stat.S_ISUID)
    try:
        store.attributes.get(inode, CAPABILITIES)
    except NoAttribute:
        assert not has_bit
        return False
    assert has_bit
    return True


async def test_rights_end_with_a_write(opened: Store, privileges: Privileges) -> None:
    """They are dropped as soon as the file is seen to have changed."""
    inode = passed_file(opened, b"f", b"content")
    with passed(opened, inode) as fd:
        await grant(opened, privileges, inode)
        privileges.check(inode)
        assert has_rights(opened, inode)
        os.pwrite(fd, b"evil", 0)
        privileges.check(inode)
        assert not has_rights(opened, inode)
        await grant(opened, privileges, inode)
        privileges.check(inode)
        assert has_rights(opened, inode)


async def test_rights_of_a_file_that_is_not_written_stay(
    opened: Store, privileges: Privileges
) -> None:
    """They outlive the last close, and ingest."""
    inode = passed_file(opened, b"f", b"content")
    with passed(opened, inode):
        await grant(opened, privileges, inode)
    privileges.check(inode)
    assert has_rights(opened, inode)
    ingest_all(opened)
    privileges.check(inode)
    assert has_rights(opened, inode)


async def test_a_write_before_the_last_close(opened: Store, privileges: Privileges) -> None:
    """A change between the last look and the close is seen at the close."""
    inode = passed_file(opened, b"f", b"content")
    with passed(opened, inode) as fd:
        await grant(opened, privileges, inode)
        os.pwrite(fd, b"evil", 0)
    privileges.check(inode)
    assert not has_rights(opened, inode)


async def test_a_mapping_after_the_last_close(opened: Store, privileges: Privileges) -> None:
    """A program that still can write unseen ends the rights, and none are granted beside it."""
    inode = passed_file(opened, b"f", b"content")
    with passed(opened, inode):
        await grant(opened, privileges, inode)
        mapped = os.open(path_of(opened, whole_of(opened, inode)), os.O_RDWR)
    privileges.check(inode)
    assert not has_rights(opened, inode)
    with pytest.raises(TextBusy):
        await privileges.grant(inode)
    os.close(mapped)
    await grant(opened, privileges, inode)
    assert has_rights(opened, inode)


async def test_other_files(opened: Store, privileges: Privileges) -> None:
    """The rights of files that the daemon writes are its own business."""
    inode = passed_file(opened, b"f", b"content")
    ingest_all(opened)
    await grant(opened, privileges, inode)
    privileges.check(inode)
    assert has_rights(opened, inode)


@pytest.mark.parametrize("is_written", [False, True])
async def test_rights_of_before_the_open(
    opened: Store, privileges: Privileges, *, is_written: bool
) -> None:
    """A file that is staged already, and setuid, is watched from its open for writing on."""
    inode = passed_file(opened, b"f", b"content")
    await grant(opened, privileges, inode)
    with passed(opened, inode) as fd:
        privileges.opened(inode)
        if is_written:
            os.pwrite(fd, b"evil", 0)
    privileges.check(inode)
    assert has_rights(opened, inode) != is_written


async def test_a_store_to_a_page_that_is_dirty(opened: Store, privileges: Privileges) -> None:
    """Such a store changes no time, unless the file was synced in between."""
    inode = passed_file(opened, b"f", bytes(4096))
    with passed(opened, inode) as fd, mmap.mmap(fd, 4096) as pages:
        pages[0] = 1
        await grant(opened, privileges, inode)
        pages[1] = 1
        privileges.check(inode)
        assert not has_rights(opened, inode)


async def test_a_change_of_the_time_is_no_write(opened: Store, privileges: Privileges) -> None:
    """`tar` sets the mode and then the time; only a write in between ends the rights."""
    inode = passed_file(opened, b"f", b"content")
    with passed(opened, inode):
        await grant(opened, privileges, inode)
        privileges.check(inode)
        opened.attributes.set(inode, Change(mtime_ns=123_000_000_000))
        privileges.time_changed(inode)
    privileges.check(inode)
    assert has_rights(opened, inode)
