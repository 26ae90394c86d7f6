"""A recorder of the operations of a store on its folder.

The store calls `os` for everything except its index. So calls of `os` that change a file or a
folder are recorded there, and calls that this module does not support are refused. LMDB makes its
own system calls. They are described in its source (0.9, mdb.c: `mdb_page_flush`, `mdb_txn_commit`
and `mdb_env_write_meta`): a commit writes pages that the last commit does not use, syncs the file
with fdatasync, and then writes 120 bytes into one sector of one of the first two pages, through a
descriptor with O_DSYNC. The recorder finds these pages by comparing the file before and after. It
misses pages that were written without a change. The disk has the same bytes in either case, after
the fdatasync that follows: before it, they may be those of a process that was killed.
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

from modelfs.store.index.index_file import IndexFile
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
# Its content is never read: the first process to open the index starts it from nothing.
IGNORED: Final = "lock.mdb"
# Folders whose files only `os` writes. Any other file is compared with its last content.
KNOWN: Final = ("packs", "staging")
# Other calls that change files. If the store comes to use one, record it here.
REFUSED: Final = (
    *("copy_file_range", "link", "posix_fallocate", "remove", "rename", "replace", "rmdir"),
    *("sendfile", "splice", "symlink", "write", "writev"),
)


class Recorder:
    """Records everything that happens to a folder, in `operations`."""

    def __init__(self, top: Path, nodes: Mapping[str, Node] | None = None) -> None:
        """Begin with the present contents of a folder.

        Args:
            top: the folder.
            nodes: the nodes of its files and folders, by path, if they have some already.
        """
        self._top = top.resolve()
        self._nodes: dict[tuple[int, int], Node] = {}  # by the kernel's numbers of device and inode
        self._seen: dict[str, bytes] = {}  # the last content of files that LMDB may write
        self._numbers = itertools.count(max((nodes or {}).values(), default=0) + 1)
        self.operations: list[Operation] = []
        for path, content in tree_of(self._top).items():
            node = self._add(path, (nodes or {}).get(path))
            if content is not None:
                self._seen[path] = content
                self.operations.append(Write(node, 0, content))
        self.before = tuple(self.operations)  # creates the folder as it was
        self.operations.clear()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record everything that is done inside the block."""
        with pytest.MonkeyPatch.context() as patch:
            calls = (self.open, self.mkdir, self.unlink, self.pwrite, self.pwritev)
            for call in (*calls, self.ftruncate, self.truncate, self.fsync, self.fdatasync):
                patch.setattr(os, call.__name__, call)
            for name in REFUSED:
                patch.setattr(os, name, self._refusing(name, getattr(os, name)))
            patch.setattr(IndexFile, "_lengthen", self._lengthening(IndexFile._lengthen))
            patch.setattr(IndexFile, "sync", self._syncing(IndexFile.sync))
            yield
            self._look()

    # -- replacements of functions of `os`

    def open(self, path: Any, flags: int, *more: Any, **options: Any) -> int:
        name = self._name_of(path, **options)
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
        if (name := self._name_of(path, **options)) is not None:
            self._add(name)

    def unlink(self, path: Any, **options: Any) -> None:
        self._look()
        unlink(path, **options)
        if (name := self._name_of(path, **options)) is not None:
            self._seen.pop(name, None)
            self.operations.append(Remove(name))

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        return self.pwritev(fd, [data], offset)

    def pwritev(self, fd: int, buffers: Sequence[Any], offset: int) -> int:
        self._look()
        written = pwritev(fd, buffers, offset)
        name = self._name_of(f"/proc/self/fd/{fd}")
        if name is not None and name.endswith(INDEX):
            self._seen[name] = (self._top / name).read_bytes()
        if (node := self._node_of(fd)) is not None:
            self.operations.append(Write(node, offset, b"".join(buffers)[:written]))
        return written

    def ftruncate(self, fd: int, size: int) -> None:
        self._look()
        ftruncate(fd, size)
        if (node := self._node_of(fd)) is not None:
            self.operations.append(Resize(node, size))
            name = self._name_of(f"/proc/self/fd/{fd}")
            if name is not None and name in self._seen:
                self._seen[name] = (self._top / name).read_bytes()

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
            hurt = [each for each in (*args, *options.values()) if self._is_mine(each)]
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
        # Called after LMDB has opened the index, and after every commit.
        def lengthening(file: IndexFile, env: lmdb.Environment) -> None:
            self._take_commit(env)
            call(file, env)

        return lengthening

    def _syncing(self, call: Callable[..., None]) -> Callable[..., None]:
        def syncing(file: IndexFile) -> None:
            self._look()
            call(file)
            path = self._name_of(file._folder.path / INDEX)
            if path is not None:
                self.operations.append(Sync(self._nodes[_identity((self._top / path).stat())]))

        return syncing

    def _take_commit(self, env: lmdb.Environment) -> None:
        # Records the writes of the commit that has just ended, and its syncs if there were any.
        if (path := self._name_of(Path(env.path()) / INDEX)) is None:
            return
        flags = env.flags()
        assert not flags["writemap"], "commits through a writable map are not recorded"
        writes = self._changes(path)
        metas = [each for each in writes if each.offset < METAS * PAGE]
        self.operations += [each for each in writes if each.offset >= METAS * PAGE]
        # Also if no page has changed: a process that was killed may have written the same ones.
        if writes and flags["sync"]:
            self.operations.append(Sync(writes[0].node))
        self.operations += metas
        if metas and flags["sync"] and flags["metasync"]:
            self.operations.append(Sync(metas[0].node))

    # -- files that LMDB writes

    def _look(self) -> None:
        # Records the changes since the last look that were not made through `os`.
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
        # The kernel may give the numbers of a deleted file to a new one.
        self._nodes[_identity(found.stat())] = node
        if not found.is_dir():
            self._seen[path] = b""
        self.operations.append(Create(path, node, found.is_dir()))
        return node

    def _node_of(self, fd: int) -> Node | None:
        return self._nodes.get(_identity(os.fstat(fd)))

    def _name_of(self, path: Any, *, dir_fd: int | None = None, **more: Any) -> str | None:
        # None if it is not in the folder. Folders in paths may be links to open descriptors.
        if dir_fd is not None:
            path = os.path.join(f"/proc/self/fd/{dir_fd}", os.fsdecode(path))
        whole = os.path.realpath(os.fsdecode(path))
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
    """Return the contents of a folder, in the form of `Disk.tree`."""
    tree: Tree = {str(each.relative_to(top)): None for each in top.rglob("*") if each.is_dir()}
    return {"": None, **tree, **{path: (top / path).read_bytes() for path in _files(top, "")}}
