"""Readers of a store: its files by path and by prefix, and its statistics."""

import contextlib
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Self

from modelfs.errors import InvalidArgument, IsADirectory, NotADirectory, NotFound
from modelfs.reader.connection import Connection
from modelfs.reader.file import File
from modelfs.reader.names import Entry, page
from modelfs.store.files.path_lookup import StrPath, inode_at, text_of
from modelfs.store.index.tables import InodeNumber
from modelfs.store.statistics import Statistics
from modelfs.store.store import Store


class Reader:
    """A reader of a store.

    >>> import modelfs
    >>> with modelfs.open(example) as store:
    ...     for file in store.files("llama/"):
    ...         print(file.path, file.size)
    ...     "llama/config.json" in store
    llama/config.json 13
    llama/model.safetensors 128
    True

    Iterating over a reader yields the paths of all files. Paths are from the top of the store, with
    "/" between names; symbolic links are followed unless they are absolute or lead out of it.

    A reader pickles as the path and the UUID of its store: a pickle of a closed reader is open
    again, and raises `NotAStore` if another store is at that path.

    Raises:
        ValueError: by every call of a reader, its files and tensors, once the reader is closed.
        StoreNotTrusted: by every call, as by `modelfs.open`.
        NotAStore: by every call, if the store is gone, or another one has replaced it.
        UnsupportedFormat: by every call, if a newer version of modelfs has changed the format.
        StoreBusy: by every call, if a process has the store open for writing and this one has no
            permission to read beside it.
        CorruptData: by every call, if the index is damaged.
        OSError: by every call, if the disk failed.
    """

    def __init__(self, folder: Path, *, trust: bool = False) -> None:
        """Open the store in a folder, an absolute path. Raises what `modelfs.open` does."""
        self._connection = Connection(folder, trust=trust)
        self._connection.call(lambda _: None)  # opens it, and raises

    @property
    def folder(self) -> Path:
        """The store's folder."""
        return self._connection.folder

    def close(self) -> None:
        """Close the reader, and the files and tensors that came from it.

        Calls in progress in other threads end as if it were open; later ones raise ValueError.
        """
        self._connection.close()

    def __enter__(self) -> Self:
        """Return the reader.

        Raises:
            ValueError: it is closed.
        """
        self._connection.call(lambda _: None)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"modelfs.open({os.fspath(self.folder)!r})"

    def __getitem__(self, path: StrPath) -> File:
        """Return the file at a path.

        Raises:
            NotFound: no such path, or a link in it leads out of the store.
            NotADirectory: a name in the path that a slash follows is not that of a folder.
            IsADirectory: the path is that of a folder.
            InvalidArgument: the path is that of a special file, such as a FIFO.
            TypeError: the path is neither a str nor a path object.
        """
        names = text_of(path).split("/")
        # ".." stays: behind a link, it is not the folder before.
        name = "/".join(part for part in names if part not in ("", "."))
        names_folder = names[-1] in ("", ".") and bool(name)

        def regular_file(store: Store) -> InodeNumber:
            inode = inode_at(store.namespace, store.inodes, name)
            mode = store.inodes.get(inode).mode
            if stat.S_ISDIR(mode):
                raise IsADirectory(f"{name or '/'} is a folder; name a file in it")
            if not stat.S_ISREG(mode):
                raise InvalidArgument(f"{name} is a special file, such as a pipe or a socket")
            if names_folder:
                raise NotADirectory(f"{name} is a file, and not a folder")
            return inode

        return File(self._connection, name, self._connection.call(regular_file))

    def __contains__(self, path: StrPath) -> bool:
        with contextlib.suppress(NotFound, NotADirectory, IsADirectory, InvalidArgument):
            self[path]
            return True
        return False

    def __iter__(self) -> Iterator[str]:
        return (file.path for file in self.files())

    def files(self, prefix: str = "") -> Iterator[File]:
        """Yield the files whose paths begin with a prefix, folder by folder in the order of names.

        A name that stays during the listing is yielded once, although others are created and
        removed; a renamed file may be yielded twice or not at all. Links to regular files are
        yielded, too; links to folders are followed only in `prefix`.

        Args:
            prefix: such as "llama/" for all files in that folder and below, or "llama/model-".

        Raises:
            CorruptData: rows of names are damaged.
        """
        folder, slash, start = text_of(prefix).lstrip("/").rpartition("/")
        try:
            top = self._connection.call(
                lambda store: inode_at(store.namespace, store.inodes, folder)
            )
        except (NotFound, NotADirectory):
            return
        open_folders = [(folder + slash, self._entries(top, start))]
        while open_folders:
            path, entries = open_folders[-1]
            if (entry := next(entries, None)) is None:
                open_folders.pop()
            elif entry.is_folder:
                open_folders.append((f"{path}{entry.name}/", self._entries(entry.inode, "")))
            else:
                yield File(self._connection, path + entry.name, entry.inode)

    def _entries(self, folder: InodeNumber, prefix: str) -> Iterator[Entry]:
        after: bytes | None = None
        while True:
            entries, after = self._connection.call(
                partial(page, folder=folder, prefix=prefix, after=after)
            )
            yield from entries
            if after is None:
                return

    def statistics(self) -> Statistics:
        """Return the statistics of `modelfs stats`. Walks the store's folder."""
        disk_bytes = self._connection.call_unpinned(lambda store: store.inventory.disk_usage())
        return self._connection.call(lambda store: store.inventory.statistics(disk_bytes))
