"""Modes, owners, times and extended attributes."""

import stat

import pytest

from modelfs.errors import (
    AttributeTooLarge,
    CorruptIndex,
    InvalidArgument,
    NoAttribute,
    NotFound,
    NotSupported,
)
from modelfs.store.files import attributes as attributes_module
from modelfs.store.files.attributes import VALUE_MAX, Change
from modelfs.store.files.clock import EARLIEST_NS, LATEST_NS
from modelfs.store.files.inode_totals import add_to_totals
from modelfs.store.index.tables import ROOT, InodeNumber, Table, named_key
from modelfs.store.store import Store
from tests.support.run_jobs import drain, ingest_all
from tests.support.stores import FILE, Box, new_file

NOWHERE = InodeNumber(12345)


def test_fields_are_set_one_by_one(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given fields are set, None changes nothing, the file type stays, and ctime is set."""
    clock = iter(range(1000, 10_000))
    monkeypatch.setattr("time.clock_gettime_ns", lambda number: next(clock))
    inode = new_file(opened, b"f")
    before = opened.inodes.get(inode)
    opened.attributes.set(inode, Change(mode=0o600, uid=5))
    after = opened.inodes.get(inode)
    assert after.mode == stat.S_IFREG | 0o600
    assert (after.uid, after.gid) == (5, before.gid)
    assert (after.atime_ns, after.mtime_ns) == (before.atime_ns, before.mtime_ns)
    assert after.ctime_ns > before.ctime_ns
    opened.attributes.set(inode, Change(mode=stat.S_IFDIR | 0o7777, gid=6, atime_ns=-1))
    after = opened.inodes.get(inode)
    assert after.mode == stat.S_IFREG | 0o7777
    assert (after.uid, after.gid, after.atime_ns) == (5, 6, -1)


def test_a_time_that_was_set_stays_set(box: Box) -> None:
    """A set mtime survives staged content, its flush, its ingest and a crash."""
    inode = new_file(box.store, b"f", b"content")
    box.store.attributes.set(inode, Change(mtime_ns=1234))
    assert box.store.contents.node(inode).mtime_ns == 1234
    box.store.flush(inode)
    box.store.commit()
    store = box.crash()
    assert store.contents.node(inode).mtime_ns == 1234
    ingest_all(store)
    assert store.inodes.get(inode).mtime_ns == 1234


def test_times_out_of_range_are_clamped(box: Box) -> None:
    """Times that a record has no room for become the nearest ones, of a staged file too."""
    inode = new_file(box.store, b"f", b"content")
    box.store.attributes.set(inode, Change(atime_ns=1 << 80, mtime_ns=-1 << 80))
    node = box.store.contents.node(inode)
    assert (node.atime_ns, node.mtime_ns) == (LATEST_NS, EARLIEST_NS)
    box.store.flush(inode)
    box.store.commit()
    node = box.crash().inodes.get(inode)
    assert (node.atime_ns, node.mtime_ns) == (LATEST_NS, EARLIEST_NS)


def test_a_write_sets_mtime(opened: Store) -> None:
    """A write after mtime was set sets it again."""
    inode = new_file(opened, b"f", b"content")
    opened.attributes.set(inode, Change(mtime_ns=1234))
    opened.writes.write(inode, 0, b"x")
    assert opened.contents.node(inode).mtime_ns > 1234


def test_attributes_are_kept(box: Box) -> None:
    """Extended attributes of any name and value, also empty ones, stay until removed."""
    inode = new_file(box.store, b"f")
    values = {b"user.a": b"value", b"user.b": b"", b"user.\xff": bytes(VALUE_MAX)}
    for name, value in values.items():
        box.store.attributes.put(inode, name, value)
    store = box.reopen()
    assert {name: store.attributes.get(inode, name) for name in values} == values
    assert list(store.attributes.names(inode)) == sorted(values)
    store.attributes.remove(inode, b"user.b")
    assert list(store.attributes.names(inode)) == [b"user.a", b"user.\xff"]
    with pytest.raises(NoAttribute):
        store.attributes.get(inode, b"user.b")
    with pytest.raises(NoAttribute):
        store.attributes.remove(inode, b"user.b")


def test_attributes_are_those_of_one_inode(opened: Store) -> None:
    """Attributes of neighbouring inodes do not mix."""
    inodes = [new_file(opened, b"%d" % number) for number in range(3)]
    opened.attributes.put(inodes[1], b"user.x", b"1")
    assert [list(opened.attributes.names(inode)) for inode in inodes] == [[], [b"user.x"], []]


def test_values_have_a_largest_size(opened: Store) -> None:
    """A value one byte longer than the kernel's limit is refused."""
    inode = new_file(opened, b"f")
    with pytest.raises(AttributeTooLarge):
        opened.attributes.put(inode, b"user.x", bytes(VALUE_MAX + 1))
    assert list(opened.attributes.names(inode)) == []


@pytest.mark.parametrize("name", [b"system.posix_acl_access", b"system.", b"name", b"users.x"])
def test_other_namespaces_are_not_supported(opened: Store, name: bytes) -> None:
    """Names of access lists, and names in no namespace, are refused."""
    for call in (
        lambda: opened.attributes.put(ROOT, name, b"x"),
        lambda: opened.attributes.get(ROOT, name),
        lambda: opened.attributes.remove(ROOT, name),
    ):
        with pytest.raises(NotSupported):
            call()


@pytest.mark.parametrize("namespace", [b"user.", b"trusted.", b"security."])
def test_namespace_without_a_name(opened: Store, namespace: bytes) -> None:
    """A namespace alone is no name."""
    with pytest.raises(InvalidArgument):
        opened.attributes.put(ROOT, namespace, b"x")


def test_a_missing_inode_has_no_attributes(opened: Store) -> None:
    """Nothing is kept for an inode that does not exist."""
    with pytest.raises(NotFound):
        opened.attributes.set(NOWHERE, Change(mode=FILE))
    with pytest.raises(NotFound):
        opened.attributes.put(NOWHERE, b"user.x", b"x")
    assert list(opened.attributes.names(NOWHERE)) == []


def test_a_lost_attribute_is_an_error(box: Box) -> None:
    """Of an inode that lacks attributes, none is said to be absent, and no list is complete."""
    inode, other = new_file(box.store, b"f"), new_file(box.store, b"other")
    attributes = box.store.attributes
    for name in (b"user.a", b"user.b"):
        attributes.put(inode, name, b"value")
    with box.store.index.change():
        box.store.index.delete(Table.XATTRS, named_key(inode, b"user.a"))
    assert attributes.get(inode, b"user.b") == b"value"
    for action in (
        lambda: attributes.get(inode, b"user.a"),
        lambda: attributes.remove(inode, b"user.c"),
        lambda: list(attributes.names(inode)),
    ):
        with pytest.raises(CorruptIndex, match="1 extended attributes"):
            action()
    with pytest.raises(NoAttribute):
        attributes.get(other, b"user.a")
    attributes.put(inode, b"user.a", b"value")
    box.store.namespace.unlink(ROOT, b"f")
    drain(box.store.orphans.remove(inode))


def test_many_attributes_are_not_counted(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an inode with more attributes than the kernel lists, an absent one is absent."""
    monkeypatch.setattr(attributes_module, "COUNTED_MAX", 1)
    inode = new_file(opened, b"f")
    for name in (b"user.a", b"user.b", b"user.c"):
        opened.attributes.put(inode, name, b"value")
    with opened.index.change():
        opened.index.delete(Table.XATTRS, named_key(inode, b"user.a"))
    with pytest.raises(NoAttribute):
        opened.attributes.get(inode, b"user.a")
    with pytest.raises(CorruptIndex, match="1 extended attributes"):
        list(opened.attributes.names(inode))
    opened.attributes.put(inode, b"user.a", b"value")
    with opened.index.change():
        add_to_totals(opened.index, inode, xattr_rows=-1)
