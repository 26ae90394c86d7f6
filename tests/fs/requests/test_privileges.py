"""Set-ID bits and capabilities of files that the kernel may write unseen."""

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
    return Privileges(opened)


def grant(store: Store, privileges: Privileges, inode: InodeNumber) -> None:
    privileges.grant(inode)
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


def test_rights_end_with_a_write(opened: Store, privileges: Privileges) -> None:
    """They are dropped as soon as the file is seen to have changed."""
    inode = passed_file(opened, b"f", b"content")
    with passed(opened, inode) as fd:
        grant(opened, privileges, inode)
        privileges.check(inode)
        assert has_rights(opened, inode)
        os.pwrite(fd, b"evil", 0)
        privileges.check(inode)
        assert not has_rights(opened, inode)
        grant(opened, privileges, inode)
        privileges.check(inode)
        assert has_rights(opened, inode)


def test_rights_of_a_file_that_is_not_written_stay(opened: Store, privileges: Privileges) -> None:
    """They outlive the last close, and ingest."""
    inode = passed_file(opened, b"f", b"content")
    with passed(opened, inode):
        grant(opened, privileges, inode)
    privileges.check(inode)
    assert has_rights(opened, inode)
    ingest_all(opened)
    privileges.check(inode)
    assert has_rights(opened, inode)


def test_a_write_before_the_last_close(opened: Store, privileges: Privileges) -> None:
    """A change between the last look and the close is seen at the close."""
    inode = passed_file(opened, b"f", b"content")
    with passed(opened, inode) as fd:
        grant(opened, privileges, inode)
        os.pwrite(fd, b"evil", 0)
    privileges.check(inode)
    assert not has_rights(opened, inode)


def test_a_mapping_after_the_last_close(opened: Store, privileges: Privileges) -> None:
    """A program that still can write unseen ends the rights, and none are granted beside it."""
    inode = passed_file(opened, b"f", b"content")
    with passed(opened, inode):
        grant(opened, privileges, inode)
        mapped = os.open(path_of(opened, whole_of(opened, inode)), os.O_RDWR)
    privileges.check(inode)
    assert not has_rights(opened, inode)
    with pytest.raises(TextBusy):
        privileges.grant(inode)
    os.close(mapped)
    grant(opened, privileges, inode)
    assert has_rights(opened, inode)


def test_other_files(opened: Store, privileges: Privileges) -> None:
    """The rights of files that the daemon writes are its own business."""
    inode = passed_file(opened, b"f", b"content")
    ingest_all(opened)
    grant(opened, privileges, inode)
    privileges.check(inode)
    assert has_rights(opened, inode)
