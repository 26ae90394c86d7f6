"""What a path is: a store, a place in a mount, or neither."""

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelfs.cli.failure import Failure
from modelfs.store.folder import FORMAT_FILE, FORMAT_TEXT, STORE_ATTRIBUTE

# What a mount answers whose daemon ended without unmounting.
DEAD: Final = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
NO_ATTRIBUTE: Final = frozenset({errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS})
_MARK: Final = FORMAT_TEXT.partition(",")[0].encode()


def is_store(path: Path) -> bool:
    """Say whether a folder is a store, of whatever format."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), _told(path):
        return (path / FORMAT_FILE).read_bytes().startswith(_MARK)
    return False


def store_of_mount(path: Path) -> Path | None:
    """Return the store that a file or folder of a mount is in, None if it is in none."""
    try:
        with _told(path):
            return Path(os.fsdecode(os.getxattr(path, STORE_ATTRIBUTE)))
    except OSError as exc:
        if exc.errno in NO_ATTRIBUTE:
            return None
        raise


def find_store(path: Path) -> Path:
    """Return the store that is meant by the path of a store, or of anything in its mount."""
    if is_store(path):
        return path.resolve()
    if not os.path.lexists(path):
        raise Failure(f"{path} does not exist; name a store or the mount point of one")
    if (store := store_of_mount(path)) is None:
        raise Failure(f"{path} is neither a modelfs store nor in a modelfs mount")
    with _told(store):
        if is_store(store):
            return store
    raise Failure(f"the store of {path} is {store}, which is not there for this process")


def is_dead(path: Path) -> bool:
    """Say whether a path is a mount whose daemon ended without unmounting it."""
    try:
        # Not stat(2), which the kernel answers for the dead from its cache.
        os.getxattr(path, STORE_ATTRIBUTE)
    except OSError as exc:
        return exc.errno in DEAD
    return False


def inside(path: Path, folder: Path) -> bool:
    """Say whether a path is a folder or lies in it. Both are resolved."""
    return path == folder or folder in path.parents


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as exc:
        raise Failure(f"{path} is not yours to look into; try as its owner or as root") from exc
    except OSError as exc:
        if exc.errno not in DEAD:
            raise
        top = mount_point_of(path)
        raise Failure(
            f"{path} is in a mount whose daemon ended; clear it with: modelfs umount {top}"
        ) from exc


@dataclass(frozen=True, slots=True)
class MountEntry:
    """A line of the kernel's mount table: what is mounted where."""

    path: Path
    kind: str
    source: str


def mounts() -> list[MountEntry]:
    """Return the mount table, in the order of mounting: proc_pid_mountinfo(5)."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    entries = []
    for line in lines:
        place, _, filesystem = line.partition(" - ")
        kind, source, *_ = filesystem.split(" ")
        entries.append(MountEntry(Path(_unescape(place.split(" ")[4])), kind, _unescape(source)))
    return entries


def mounted_at(path: Path) -> MountEntry | None:
    """Return what is mounted at a path, the last of it if several are."""
    found = [entry for entry in mounts() if entry.path == path]
    return found[-1] if found else None


def mounted_elsewhere(device: int) -> tuple[int, str] | None:
    """Return a process that sees a mount of modelfs, by its device number, and where it does.

    A mount that was unmounted here lives on in the mount namespaces that copied it, as containers
    do, and at other places that it was bound to.
    """
    number = f"{os.major(device)}:{os.minor(device)}"
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):
            for line in table.read_text(errors="surrogateescape").splitlines():
                if " - fuse.modelfs " in line and line.split(" ")[2] == number:
                    return int(table.parent.name), _unescape(line.split(" ")[4])
    return None


def mount_point_of(path: Path) -> Path:
    """Return the mount point of the mount that a path is in."""
    path = Path(os.path.realpath(path))
    places = {entry.path for entry in mounts()}
    return next((each for each in (path, *path.parents) if each in places), Path("/"))


def _unescape(field: str) -> str:
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, letter)
    return field
