"""Functions for a process of another user: it imports this module to call them."""

import modelfs
from modelfs.reader.entry import open as open_store
from modelfs.reader.reader import Reader

_kept: dict[str, Reader] = {}


def read_all(path: str) -> dict[str, bytes] | str:
    """Return the content of every file of a store, or the error."""
    try:
        with open_store(path) as store:
            return {file.path: file.pread() for file in store.files()}
    except (modelfs.ModelfsError, PermissionError) as exc:
        return f"{type(exc).__name__}: {exc}"


def read_again(path: str) -> dict[str, bytes] | str:
    """Do the same with a reader that stays open."""
    try:
        if path not in _kept:
            _kept[path] = open_store(path)
        return {file.path: file.pread() for file in _kept[path].files()}
    except modelfs.ModelfsError as exc:
        return f"{type(exc).__name__}: {exc}"
