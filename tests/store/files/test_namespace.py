"""The namespace, compared with a tree of dicts."""

import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from modelfs.errors import (
    AlreadyExists,
    CorruptIndex,
    DirectoryNotEmpty,
    InvalidArgument,
    IsADirectory,
    ModelfsError,
    NameTooLong,
    NotADirectory,
    NotFound,
    NotPermitted,
    TooManyLinks,
)
from modelfs.jobs.check.fsck import check
from modelfs.store.files.namespace import LINK_MAX, Owner
from modelfs.store.index.tables import ROOT, InodeNumber, Table, number_key
from modelfs.store.store import Store
from tests.support.run_jobs import drain
from tests.support.stores import FILE, FOLDER, ME, Box, new_file, new_store

# Few names in few folders, so that names often collide.
NAMES = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
STEPS = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

Path_ = tuple[bytes, ...]


@dataclass(eq=False)
class Node:
    """A file, or a folder if it has `names`."""

    inode: InodeNumber
    names: "dict[bytes, Node] | None" = None
    cookies: dict[bytes, int] = field(default_factory=dict)


def outcome(call: Callable[[], object]) -> object:
    """Return the result of a call, or the class of its error."""
    try:
        return call()
    except ModelfsError as exc:
        return type(exc)


class LikeATree(RuleBasedStateMachine):
    """Do the same to a namespace and to dicts: results, errors and listings are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.box = Box(new_store(Path(self.folder.name)))
        self.root = Node(ROOT, {})

    @property
    def store(self) -> Store:
        return self.box.store

    # -- the model: the node at a path, or the error

    def folder_of(self, path: Path_) -> Node | None:
        """Return the folder of a path's last name, None if there is none."""
        node = self.root
        for name in path[:-1]:
            child = None if node.names is None else node.names.get(name)
            if child is None:
                return None
            node = child
        return node if node.names is not None else None

    def both(self, path: Path_) -> tuple[dict[bytes, Node], InodeNumber, bytes] | None:
        node = self.folder_of(path)
        return None if node is None or node.names is None else (node.names, node.inode, path[-1])

    def is_below(self, node: Node, top: Node) -> bool:
        if node is top:
            return True
        return any(self.is_below(node, child) for child in (top.names or {}).values())

    # -- rules

    @rule(path=PATHS, is_folder=st.booleans())
    def create(self, path: Path_, is_folder: bool) -> None:
        if (place := self.both(path)) is not None:
            names, folder, name = place
            mode = FOLDER if is_folder else FILE
            result = outcome(lambda: self.store.namespace.create(folder, name, mode, ME).inode)
            if name in names:
                assert result is AlreadyExists
            else:
                assert isinstance(result, int)
                names[name] = Node(InodeNumber(result), {} if is_folder else None)

    @rule(path=PATHS)
    def symlink(self, path: Path_) -> None:
        if (place := self.both(path)) is not None:
            names, folder, name = place
            target = b"/".join(path)
            result = outcome(lambda: self.store.namespace.symlink(folder, name, target, ME).inode)
            if name in names:
                assert result is AlreadyExists
            else:
                assert isinstance(result, int)
                names[name] = Node(InodeNumber(result))
                assert self.store.namespace.readlink(names[name].inode) == target

    @rule(old=PATHS, new=PATHS)
    def link(self, old: Path_, new: Path_) -> None:
        source, target = self.both(old), self.both(new)
        if source is None or target is None or (node := source[0].get(old[-1])) is None:
            return
        names, folder, name = target
        result = outcome(lambda: self.store.namespace.link(node.inode, folder, name))
        if node.names is not None:
            assert result is NotPermitted
        elif name in names:
            assert result is AlreadyExists
        else:
            assert result is None
            names[name] = node

    @rule(path=PATHS)
    def unlink(self, path: Path_) -> None:
        if (place := self.both(path)) is not None:
            names, folder, name = place
            result = outcome(lambda: self.store.namespace.unlink(folder, name))
            if (node := names.get(name)) is None:
                assert result is NotFound
            elif node.names is not None:
                assert result is IsADirectory
            else:
                assert result == names.pop(name).inode

    @rule(path=PATHS)
    def rmdir(self, path: Path_) -> None:
        if (place := self.both(path)) is not None:
            names, folder, name = place
            result = outcome(lambda: self.store.namespace.rmdir(folder, name))
            if (node := names.get(name)) is None:
                assert result is NotFound
            elif node.names is None:
                assert result is NotADirectory
            elif node.names:
                assert result is DirectoryNotEmpty
            else:
                assert result == names.pop(name).inode

    @rule(old=PATHS, new=PATHS, replace=st.booleans())
    def rename(self, old: Path_, new: Path_, replace: bool) -> None:
        source, target = self.both(old), self.both(new)
        if source is None or target is None:
            return
        (names, folder, name), (new_names, new_folder, new_name) = source, target
        result = outcome(
            lambda: self.store.namespace.rename(
                (folder, name), (new_folder, new_name), replace=replace
            )
        )
        node, victim = names.get(name), new_names.get(new_name)
        wanted = self.rename_outcome(node, victim, new, replace=replace)
        assert result == wanted
        if node is not None and not isinstance(wanted, type) and victim is not node:
            del names[name]
            new_names[new_name] = node

    def rename_outcome(
        self, node: Node | None, victim: Node | None, new: Path_, *, replace: bool
    ) -> object:
        holder = self.folder_of(new)
        assert holder is not None
        if node is None:
            return NotFound
        if self.is_below(holder, node):
            return InvalidArgument
        if victim is None:
            return None
        if not replace:
            return AlreadyExists
        return None if victim is node else self.replace_outcome(node, victim)

    def replace_outcome(self, node: Node, victim: Node) -> object:
        if victim.names is None:
            return NotADirectory if node.names is not None else victim.inode
        if node.names is None:
            return IsADirectory
        return DirectoryNotEmpty if victim.names else victim.inode

    @rule(one=PATHS, two=PATHS)
    def exchange(self, one: Path_, two: Path_) -> None:
        first, second = self.both(one), self.both(two)
        if first is None or second is None:
            return
        (names, folder, name), (new_names, new_folder, new_name) = first, second
        result = outcome(
            lambda: self.store.namespace.exchange((folder, name), (new_folder, new_name))
        )
        node, other = names.get(name), new_names.get(new_name)
        if node is None or other is None:
            assert result is NotFound
            return
        holders = self.folder_of(two), self.folder_of(one)
        assert holders[0] is not None
        assert holders[1] is not None
        if self.is_below(holders[0], node) or self.is_below(holders[1], other):
            assert result is InvalidArgument
        else:
            assert result is None
            names[name], new_names[new_name] = other, node

    @rule()
    def remove_orphans(self) -> None:
        for inode in self.store.orphans.inodes():
            drain(self.store.orphans.remove(inode))

    @rule()
    def reopen(self) -> None:
        self.box.reopen()

    # -- invariants

    def folders(self, node: Node, path: Path_ = ()) -> Iterator[tuple[Path_, Node]]:
        if node.names is not None:
            yield path, node
            for name, child in node.names.items():
                yield from self.folders(child, (*path, name))

    @invariant()
    def same_tree(self) -> None:
        name_counts: dict[InodeNumber, int] = {}
        for path, folder in self.folders(self.root):
            names = folder.names or {}
            listing = self.store.dentries.listing(folder.inode, 0, 100)
            assert {name: inode for _, name, inode in listing} == {
                name: node.inode for name, node in names.items()
            }
            for name, node in names.items():
                assert self.store.namespace.lookup(folder.inode, name) == node.inode
                name_counts[node.inode] = name_counts.get(node.inode, 0) + 1
                self.check_node(path, folder, node)
        for inode, count in name_counts.items():
            record = self.store.inodes.get(inode)
            if not stat.S_ISDIR(record.mode):
                assert record.nlink == count

    def check_node(self, path: Path_, folder: Node, node: Node) -> None:
        if node.names is not None:
            record = self.store.inodes.get(node.inode)
            subfolders = sum(child.names is not None for child in node.names.values())
            assert record.nlink == 2 + subfolders
            assert self.store.namespace.lookup(node.inode, b"..") == folder.inode
            assert self.store.namespace.path_of(node.inode).split(b"/")[1:-1] == list(path)

    @invariant()
    def cookies_stay(self) -> None:
        """A name keeps the cookie at which it was listed, as long as it exists."""
        for _, folder in self.folders(self.root):
            now = {
                name: cookie
                for cookie, name, _ in self.store.dentries.listing(folder.inode, 0, 100)
            }
            for name, cookie in now.items():
                before = folder.cookies.get(name)
                assert before is None or cookie >= before
            folder.cookies = now

    def teardown(self) -> None:
        assert check(self.store) == []
        self.box.reopen()
        self.store.abandon()
        self.folder.cleanup()


def test_names_are_a_tree() -> None:
    """Any sequence of calls gives the results, errors and tree of the dicts."""
    run_state_machine_as_test(LikeATree, settings=STEPS)


# -- listings


def test_a_listing_goes_on_where_it_stopped(opened: Store) -> None:
    """Names added and removed between two pages of a listing hide no other name."""
    for number in range(10):
        new_file(opened, b"%d" % number)
    first = opened.dentries.listing(ROOT, 0, 4)
    for number in (1, 3, 5):
        opened.namespace.unlink(ROOT, b"%d" % number)
    new_file(opened, b"new")
    opened.namespace.rename((ROOT, b"9"), (ROOT, b"6"))
    rest = opened.dentries.listing(ROOT, first[-1][0], 100)
    assert [name for _, name, _ in rest] == [b"4", b"6", b"7", b"8", b"new"]


def test_names_come_in_order(opened: Store) -> None:
    """From a name on, so many, and of no other folder."""
    folder = opened.namespace.create(ROOT, b"folder", FOLDER, ME).inode
    for name in (b"b", b"\xff", b"a.", b"a", b"a0"):
        new_file(opened, name, folder=folder)
    new_file(opened, b"z")
    ordered = [b"a", b"a.", b"a0", b"b", b"\xff"]
    assert [name for name, _ in opened.dentries.names(folder, b"", 10)] == ordered
    assert [name for name, _ in opened.dentries.names(folder, b"a.", 2)] == ordered[1:3]
    assert [name for name, _ in opened.dentries.names(folder, b"a.\0", 9)] == ordered[2:]
    assert opened.dentries.names(folder, b"\xff\0", 1) == []
    (named,) = opened.dentries.names(folder, b"b", 1)
    assert named == (b"b", opened.namespace.lookup(folder, b"b"))


def test_a_replaced_name_keeps_its_cookie(opened: Store) -> None:
    """A replaced name is listed once, by listings before and behind its cookie."""
    new_file(opened, b"old")
    new = new_file(opened, b"new")
    before = {name: cookie for cookie, name, _ in opened.dentries.listing(ROOT, 0, 9)}
    opened.namespace.rename((ROOT, b"new"), (ROOT, b"old"))
    assert opened.dentries.listing(ROOT, 0, 9) == [(before[b"old"], b"old", new)]


# -- rules of names


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b"])
def test_no_file_has_that_name(opened: Store, name: bytes) -> None:
    """Invalid names are refused."""
    with pytest.raises(InvalidArgument):
        opened.namespace.create(ROOT, name, FILE, ME)


def test_names_have_a_largest_length(opened: Store) -> None:
    """A name may have any 255 bytes, but not 256."""
    name = b"\xff" * 255
    inode = new_file(opened, name)
    assert opened.namespace.lookup(ROOT, name) == inode
    for call in (
        lambda: opened.namespace.lookup(ROOT, b"x" * 256),
        lambda: opened.namespace.create(ROOT, b"x" * 256, FILE, ME),
        lambda: opened.namespace.rename((ROOT, name), (ROOT, b"x" * 256)),
    ):
        with pytest.raises(NameTooLong):
            call()


def test_link_targets_have_a_largest_length(opened: Store) -> None:
    """A target may have 4,095 bytes, but not 4,096; only a link has one."""
    link = opened.namespace.symlink(ROOT, b"link", b"t" * 4095, ME)
    assert opened.namespace.readlink(link.inode) == b"t" * 4095
    assert link.size == 4095
    with pytest.raises(NameTooLong):
        opened.namespace.symlink(ROOT, b"longer", b"t" * 4096, ME)
    with pytest.raises(InvalidArgument):
        opened.namespace.readlink(ROOT)


def test_a_failed_symlink_leaves_nothing(opened: Store) -> None:
    """A link whose name exists is not created, and takes no inode number."""
    new_file(opened, b"taken")
    with pytest.raises(AlreadyExists):
        opened.namespace.symlink(ROOT, b"taken", b"target", ME)
    one = new_file(opened, b"one")
    assert one == opened.namespace.lookup(ROOT, b"taken") + 1


def test_link_counts_have_a_maximum(opened: Store) -> None:
    """One name more than the maximum is refused."""
    inode = new_file(opened, b"f")
    node = opened.inodes.get(inode)
    with opened.index.change():
        opened.inodes.touch(node, nlink=LINK_MAX)
    with pytest.raises(TooManyLinks):
        opened.namespace.link(inode, ROOT, b"g")
    with opened.index.change():
        opened.inodes.put(node)


# -- removed inodes


def test_nothing_is_made_in_a_removed_directory(opened: Store) -> None:
    """A removed directory that is still open gets no names, and has no parent."""
    folder = opened.namespace.create(ROOT, b"d", FOLDER, ME).inode
    inode = new_file(opened, b"f")
    opened.namespace.rmdir(ROOT, b"d")
    for call in (
        lambda: opened.namespace.create(folder, b"x", FILE, ME),
        lambda: opened.namespace.link(inode, folder, b"x"),
        lambda: opened.namespace.rename((ROOT, b"f"), (folder, b"x")),
        lambda: opened.namespace.lookup(folder, b".."),
        lambda: opened.namespace.lookup(folder, b"."),
    ):
        with pytest.raises(NotFound):
            call()
    assert opened.dentries.listing(folder, 0, 9) == []


def test_a_removed_file_gets_no_new_name(opened: Store) -> None:
    """A removed file that is still open cannot be linked."""
    inode = new_file(opened, b"f")
    opened.namespace.unlink(ROOT, b"f")
    with pytest.raises(NotFound):
        opened.namespace.link(inode, ROOT, b"again")
    assert opened.namespace.path_of(inode) == b"(inode %d)" % inode


def test_orphans_are_found_after_a_crash(box: Box) -> None:
    """Inodes that were open without a name at a crash are listed as orphans."""
    inode = new_file(box.store, b"f", b"content")
    box.store.namespace.unlink(ROOT, b"f")
    box.store.commit()
    assert box.crash().orphans.inodes() == [inode]


# -- attributes of new inodes


def test_new_files_belong_to_their_maker(opened: Store) -> None:
    """Owner and mode are as given; below a set-group-ID folder the group is the folder's."""
    node = opened.namespace.create(ROOT, b"f", FILE, Owner(5, 6))
    assert (node.uid, node.gid, node.mode) == (5, 6, FILE)
    shared = opened.namespace.create(ROOT, b"d", FOLDER | stat.S_ISGID, Owner(7, 8))
    below = opened.namespace.create(shared.inode, b"d", FOLDER, Owner(5, 6))
    assert (below.uid, below.gid, below.mode) == (5, 8, FOLDER | stat.S_ISGID)
    file = opened.namespace.create(shared.inode, b"f", FILE, Owner(5, 6))
    assert (file.gid, file.mode) == (8, FILE)


def test_changes_are_dated(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new name sets the times of its folder, a removed one also those of the inode."""
    clock = iter(range(1000, 10_000))
    monkeypatch.setattr("time.clock_gettime_ns", lambda number: next(clock))
    folder = opened.namespace.create(ROOT, b"d", FOLDER, ME)
    file = opened.namespace.create(folder.inode, b"f", FILE, ME)
    assert opened.inodes.get(folder.inode).mtime_ns > folder.mtime_ns
    opened.namespace.link(file.inode, ROOT, b"g")
    linked = opened.inodes.get(file.inode)
    assert linked.ctime_ns > file.ctime_ns
    assert linked.mtime_ns == file.mtime_ns
    opened.namespace.unlink(ROOT, b"g")
    assert opened.inodes.get(file.inode).ctime_ns > linked.ctime_ns


# -- damage


def test_a_loop_of_directories_is_damage(opened: Store) -> None:
    """A cycle of directories raises CorruptIndex, and is no endless loop."""
    one = opened.namespace.create(ROOT, b"one", FOLDER, ME)
    two = opened.namespace.create(one.inode, b"two", FOLDER, ME)
    opened.namespace.create(ROOT, b"moved", FOLDER, ME)
    with opened.index.change():
        opened.inodes.touch(opened.inodes.get(one.inode), parent=two.inode)
    with pytest.raises(CorruptIndex):
        opened.namespace.rename((ROOT, b"moved"), (two.inode, b"x"))
    with opened.index.change():
        opened.inodes.touch(opened.inodes.get(one.inode), parent=ROOT)


@pytest.mark.parametrize("table", [Table.DENTRIES, Table.LISTING])
def test_a_folder_with_a_lost_row_is_not_empty(box: Box, table: Table) -> None:
    """A folder is not removed, nor renamed over, while one of the rows of a name is left."""
    names, index = box.store.namespace, box.store.index
    folder = names.create(ROOT, b"folder", FOLDER, ME).inode
    names.create(ROOT, b"other", FOLDER, ME)
    new_file(box.store, b"f", folder=folder)
    (key,) = index.keys(table, number_key(folder), number_key(folder + 1))
    value = index.get(table, key)
    assert value is not None
    with index.change():
        index.delete(table, key)
    with pytest.raises(DirectoryNotEmpty):
        names.rmdir(ROOT, b"folder")
    with pytest.raises(DirectoryNotEmpty):
        names.rename((ROOT, b"other"), (ROOT, b"folder"))
    with index.change():
        index.put(table, key, value)


def test_a_lost_target_is_an_error(box: Box) -> None:
    """A symbolic link without a target is damage, and a file is no symbolic link."""
    link = box.store.namespace.symlink(ROOT, b"link", b"target", ME).inode
    with pytest.raises(InvalidArgument):
        box.store.namespace.readlink(new_file(box.store, b"f"))
    with box.store.index.change():
        box.store.index.delete(Table.SYMLINKS, number_key(link))
    with pytest.raises(CorruptIndex, match="is missing"):
        box.store.namespace.readlink(link)
    box.store.namespace.unlink(ROOT, b"link")
    drain(box.store.orphans.remove(link))
