"""Opening a store to read from it, and creating one."""

from pathlib import Path

from modelfs.errors import InvalidArgument, NotAStore
from modelfs.reader.reader import Reader
from modelfs.store.create import CHUNK_SIZE, create_store
from modelfs.store.files.path_lookup import StrPath, text_of
from modelfs.store.mounted import find_path


def open(path: StrPath, *, trust: bool = False) -> Reader:  # noqa: A001 - as in `modelfs.open`
    """Return a reader of a store.

    Args:
        path: the store's folder, or any path in a mount of it. `~` stands for the home directory.
        trust: open it, too, if it belongs to another user and this is a process of root, or if
            several users may write in its folder.

    Raises:
        StoreNotTrusted: other users may be able to change the store, and `trust` is not given.
        NotAStore: the path is neither, or empty, or the mount's store does not exist for this
            process.
        UnsupportedFormat: a newer version of modelfs wrote the store.
        StoreBusy: this process has the store open for writing, or another process has and this one
            has no permission to read beside it: see `modelfs.reader`.
        CorruptData: the index is damaged.
        TypeError: the path is neither a str nor a path object.
        OSError: the path may not be read, or the mount's daemon ended.
    """
    if not (text := text_of(path)):
        raise NotAStore("the path of a store is empty")
    return Reader(find_path(Path(text).expanduser()), trust=trust)


def create(path: StrPath, *, chunk_size: int = CHUNK_SIZE) -> None:
    """Create an empty store, readable by its owner only, in a new or empty folder.

    It is filled through a mount: `modelfs mount STORE MOUNTPOINT`.

    Args:
        path: the folder. `~` stands for the home directory.
        chunk_size: bytes; longer tensors are cut into chunks of that size.

    Raises:
        InvalidArgument: the path is empty, or the chunk size is not a multiple of 4 KiB, from 4 KiB
            to 1 GiB.
        DirectoryNotEmpty: the folder is a store already, or has other files.
        NotADirectory: there is something else than a folder.
        StoreNotTrusted: the folder is another user's.
        TypeError: the path is neither a str nor a path object.
        OSError: the folder cannot be created.
    """
    if not (text := text_of(path)):
        raise InvalidArgument("the path of a store is empty")
    create_store(Path(text).expanduser(), chunk_size=chunk_size)
