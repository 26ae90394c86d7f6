"""Recording what a store does to its folder, operation by operation.

The store calls `os` for all but its index, so the calls that change a file or a folder are taken
down there; those that this module does not know are refused. LMDB makes its system calls itself,
and what they are is known from its source (0.9, mdb.c: `mdb_page_flush`, `mdb_txn_commit` and
`mdb_env_write_meta`): a commit writes pages that the last commit does not use, syncs the file with
fdatasync, and then writes 120 bytes into one sector of one of the first two pages, through a
descriptor with O_DSYNC. Which pages they were is seen by comparing the file before and after. A
page that was written without a change is missed, and does not matter: written or not, the disk
holds the same.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import fsync, ftruncate, mkdir, pwritev, truncate, unlink
from os import open as open_file
from pathlib import Path
from typing import Any, Final

import lmdb
import pytest

from modelfs.store.index.environment import Environment
from tests.support.crash.disk_model import (
    PAGE,
    Create,
    Node,
    Operation,
    Remove,
    Resize,
    Sync,
    Tree,
    Write,
)

METAS: Final = 2  # the first pages of LMDB's file
INDEX: Final = "data.mdb"
# Nobody reads what is in it: who opens the index first begins it anew.
IGNORED: Final = "lock.mdb"
# Folders whose files only `os` writes. Any other file is looked at to see whether it changed.
KNOWN: Final = ("packs", "staging")
# What else changes files. A store that comes to use one needs it recorded here.
REFUSED: Final = (
    *("copy_file_range", "link", "posix_fallocate", "remove", "rename", "replace", "rmdir"),
    *("sendfile", "splice", "symlink", "write", "writev"),
)


class Recorder:
    """Takes down what happens to a folder, in `operations`."""

    def __init__(self, top: Path, nodes: Mapping[str, Node] | None = None) -> None:
        """Begin with the folder as it is.

        Args:
            top: the folder.
            nodes: the nodes of what is in it, by path, if they have any already.
        """
        self._top = top.resolve()
        self._nodes: dict[tuple[int, int], Node] = {}  # by the kernel's numbers of device and inode
        self._seen: dict[str, bytes] = {}  # files that others than `os` may write, as they were
        self._numbers = itertools.count(max((nodes or {}).values(), default=0) + 1)
        self.operations: list[Operation] = []
        for path, content in tree_of(self._top).items():
            node = self._add(path, (nodes or {}).get(path))
            if content is not None:
                self._seen[path] = content
                self.operations.append(Write(node, 0, content))
        self.before = tuple(self.operations)  # makes the folder as it was
        self.operations.clear()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Take down what is done inside the block."""
        with pytest.MonkeyPatch.context() as patch:
            calls = (self.open, self.mkdir, self.unlink, self.pwrite, self.pwritev)
            for call in (*calls, self.ftruncate, self.truncate, self.fsync, self.fdatasync):
                patch.setattr(os, call.__name__, call)
            for name in REFUSED:
                patch.setattr(os, name, self._refusing(name, getattr(os, name)))
            patch.setattr(Environment, "_lengthen", self._lengthening(Environment._lengthen))
            patch.setattr(Environment, "sync", self._syncing(Environment.sync))
            yield
            self._look()

    # -- what stands in for the functions of `os`

    def open(self, path: Any, flags: int, *more: Any, **options: Any) -> int:
        name = self._name_of(path)
        assert name is None or not flags & os.O_TRUNC, "O_TRUNC is not recorded"
        self._look()
        is_new = name is not None and not (self._top / name).exists()
        fd = open_file(path, flags, *more, **options)
        if name is not None and is_new and Path(name).name != IGNORED:
            self._add(name)
        return fd

    def mkdir(self, path: Any, *more: Any, **options: Any) -> None:
        self._look()
        mkdir(path, *more, **options)
        if (name := self._name_of(path)) is not None:
            self._add(name)

    def unlink(self, path: Any, **options: Any) -> None:
        self._look()
        unlink(path, **options)
        if (name := self._name_of(path)) is not None:
            self._seen.pop(name, None)
            self.operations.append(Remove(name))

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        return self.pwritev(fd, [data], offset)

    def pwritev(self, fd: int, buffers: Sequence[Any], offset: int) -> int:
        self._look()
        written = pwritev(fd, buffers, offset)
        if (node := self._node_of(fd)) is not None:
            self.operations.append(Write(node, offset, b"".join(buffers)[:written]))
        return written

    def ftruncate(self, fd: int, size: int) -> None:
        self._look()
        ftruncate(fd, size)
        if (node := self._node_of(fd)) is not None:
            self.operations.append(Resize(node, size))

    def truncate(self, path: Any, size: int) -> None:
        self._look()
        truncate(path, size)
        if (name := self._name_of(path)) is not None:
            found = self._top / name
            self._seen[name] = found.read_bytes()
            self.operations.append(Resize(self._nodes[_identity(found.stat())], size))

    def fsync(self, fd: int) -> None:
        self._look()
        fsync(fd)
        if (node := self._node_of(fd)) is not None:
            self.operations.append(Sync(node))

    def fdatasync(self, fd: int) -> None:
        self.fsync(fd)

    def _refusing(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def refusing(*args: Any, **options: Any) -> Any:
            hurt = [each for each in args if self._is_mine(each)]
            assert not hurt, f"os.{name} is not recorded, and was called for {hurt}"
            return call(*args, **options)

        return refusing

    def _is_mine(self, argument: Any) -> bool:
        if isinstance(argument, int):
            with contextlib.suppress(OSError):
                return self._node_of(argument) is not None
        is_path = isinstance(argument, str | bytes | os.PathLike)
        return is_path and self._name_of(argument) is not None

    # -- the index

    def _lengthening(self, call: Callable[..., None]) -> Callable[..., None]:
        # What the environment does after LMDB has opened the index, and after every commit.
        def lengthening(environment: Environment, env: lmdb.Environment) -> None:
            self._take_commit(env)
            call(environment, env)

        return lengthening

    def _syncing(self, call: Callable[..., None]) -> Callable[..., None]:
        def syncing(environment: Environment) -> None:
            self._look()
            call(environment)
            path = self._name_of(environment._folder / INDEX)
            if path is not None:
                self.operations.append(Sync(self._nodes[_identity((self._top / path).stat())]))

        return syncing

    def _take_commit(self, env: lmdb.Environment) -> None:
        # Takes down the writes of a commit that was made just now, and its syncs if it made them.
        if (path := self._name_of(Path(env.path()) / INDEX)) is None:
            return
        flags = env.flags()
        assert not flags["writemap"], "commits through a writable map are not recorded"
        writes = self._changes(path)
        pages = [each for each in writes if each.offset >= METAS * PAGE]
        metas = [each for each in writes if each.offset < METAS * PAGE]
        self._take(pages, synced=flags["sync"])
        self._take(metas, synced=flags["sync"] and flags["metasync"])

    def _take(self, writes: list[Write], *, synced: bool) -> None:
        self.operations += writes
        if writes and synced:
            self.operations.append(Sync(writes[0].node))

    # -- files that others write

    def _look(self) -> None:
        # Takes down what others than `os` did since the last look.
        for path in list(_files(self._top, "", without=KNOWN)):
            self.operations += self._changes(path)

    def _changes(self, path: str) -> list[Write]:
        if path not in self._seen:
            self._add(path)
        old, new = self._seen.get(path, b""), (self._top / path).read_bytes()
        self._seen[path] = new
        assert len(new) >= len(old), f"{path} was cut"
        node = self._nodes[_identity((self._top / path).stat())]
        return [
            Write(node, at, new[at : at + PAGE])
            for at in (range(0, len(new), PAGE) if new != old else ())
            if new[at : at + PAGE] != old[at : at + PAGE]
        ]

    # -- nodes

    def _add(self, path: str, node: Node | None = None) -> Node:
        found = self._top / path
        node = next(self._numbers) if node is None else node
        # The kernel may use the numbers of a file that is gone again.
        self._nodes[_identity(found.stat())] = node
        if not found.is_dir():
            self._seen[path] = b""
        self.operations.append(Create(path, node, found.is_dir()))
        return node

    def _node_of(self, fd: int) -> Node | None:
        return self._nodes.get(_identity(os.fstat(fd)))

    def _name_of(self, path: Any) -> str | None:
        # None: it is not in the folder.
        whole = os.path.abspath(os.fsdecode(path))
        if whole == str(self._top):
            return ""
        inside, _, name = whole.rpartition(f"{self._top}/")
        return None if inside or not whole.startswith(f"{self._top}/") else name


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _files(top: Path, folder: str, without: tuple[str, ...] = ()) -> Iterator[str]:
    with os.scandir(top / folder) as entries:
        for entry in entries:
            path = f"{folder}/{entry.name}".lstrip("/")
            if not entry.is_dir():
                if entry.name != IGNORED:
                    yield path
            elif entry.name not in without:
                yield from _files(top, path, without)


def tree_of(top: Path) -> Tree:
    """Return what is in a folder, as `Disk.tree` does."""
    tree: Tree = {str(each.relative_to(top)): None for each in top.rglob("*") if each.is_dir()}
    return {"": None, **tree, **{path: (top / path).read_bytes() for path in _files(top, "")}}
