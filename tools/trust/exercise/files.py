"""The files of one process: names, open files and mappings, each with its expected content.

A process has files of its own, with which it may do anything, and parts of shared ones: byte ranges
that no other process touches, beside those of other processes.
"""

import ctypes
import itertools
import mmap
import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tools.trust.exercise.content import Content
from tools.trust.exercise.draw import CHUNK, PAGE, Draw

JOURNAL: Final = 50
HANDLES: Final = 8
MAPPINGS: Final = 4
MAPPED_MAX: Final = 16 << 20
# A file up to this length is checked whole; of a longer one, the data and the edges of its holes.
WHOLE: Final = 8 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Wrong(Exception):
    """A file has not its expected content."""


@dataclass(eq=False, slots=True)
class File:
    """A file, or a part of a shared one, and the operations on it."""

    number: int
    names: set[str]  # none: it was removed while open
    inode: int
    content: Content = field(default_factory=Content)
    part: tuple[int, int] | None = None  # of a shared file
    journal: deque[str] = field(default_factory=lambda: deque(maxlen=JOURNAL))

    def clip(self, start: int, size: int) -> tuple[int, int]:
        """Return the nearest range to read or write that no other process uses."""
        if self.part is None:
            return start, size
        low, high = self.part
        start = low + start % (high - low)
        return start, min(size, high - start)


@dataclass(eq=False, slots=True)
class Handle:
    """An open file."""

    file: File
    fd: int
    flags: int

    def fits(self, *, write: bool) -> bool:
        mode = self.flags & os.O_ACCMODE
        plain = not self.flags & (os.O_APPEND | os.O_DIRECT)
        return plain and (mode == os.O_RDWR or (mode == os.O_RDONLY and not write))


class Files:
    """The files of a process, and their checks."""

    def __init__(self, folder: Path, draw: Draw, count: int) -> None:
        self.folder = folder
        self.draw = draw
        self.all_names = [f"{'sub/' * (number % 2)}{number}" for number in range(count)]
        self.named: dict[str, File] = {}
        self.handles: list[Handle] = []
        self.mappings: list[tuple[File, mmap.mmap]] = []
        self.operation = 0
        self.touched: File | None = None
        self._focus: File | None = None
        self._shared: list[File] = []
        self._numbers = itertools.count()
        # The kernel copies between a mapping and this file on behalf of a system call: a page that
        # cannot be had is then EFAULT, where touching it would be SIGBUS.
        self._memory = os.memfd_create("mapped")
        (folder / "sub").mkdir(parents=True)

    def path(self, name: str) -> Path:
        return self.folder / name

    def note(self, file: File, what: str) -> None:
        """Record the next operation on a file."""
        self.touched = file
        file.journal.append(f"{self.operation}: {what}")

    # -- which file

    def files(self) -> list[File]:
        """Return the files that can be opened."""
        files = {*self.named.values(), *(handle.file for handle in self.handles)}
        return sorted((file for file in files if file.part is None), key=lambda file: file.number)

    def pick(self) -> File:
        """Return a file; nearly always the same for a while, so that the others are ingested."""
        files = self.files()
        if not files:
            return self.create(self.draw.one(self.all_names)).file
        if self._focus not in files:
            self._focus = self.draw.one(files)
        assert self._focus is not None
        return self._focus if self.draw.chance(0.95) else self.draw.one(files)

    def pick_part(self) -> File:
        """Return a file, or a part of a shared one."""
        if self._shared and self.draw.chance(0.1):
            return self.draw.one(self._shared)
        return self.pick()

    def share(self, path: Path, parts: list[tuple[int, int]]) -> None:
        """Add parts of a shared file of zeros."""
        for part in parts:
            file = File(next(self._numbers), {os.fspath(path)}, path.stat().st_ino, part=part)
            file.content.resize(part[1])
            self._shared.append(file)

    # -- names and open files

    def create(self, name: str) -> Handle:
        """Open a name with O_CREAT and O_TRUNC."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        fd = os.open(self.path(name), flags, 0o644)
        if (file := self.named.get(name)) is None:
            file = File(next(self._numbers), {name}, os.fstat(fd).st_ino)
            self.named[name] = file
        self.note(file, f"open({name}, O_RDWR|O_CREAT|O_TRUNC)")
        file.content.resize(0)
        return self._keep(Handle(file, fd, flags))

    def open(self, file: File, flags: int) -> Handle:
        """Open a file by one of its names, or if it has none, by an open file."""
        if file.names:
            path = self.path(self.draw.one(sorted(file.names)))
        else:
            other = next(handle for handle in self.handles if handle.file is file)
            path = Path(f"/proc/self/fd/{other.fd}")
        self.note(file, f"open({path.name}, {flags:#o})")
        return self._keep(Handle(file, os.open(path, flags), flags))

    def _keep(self, handle: Handle) -> Handle:
        self.handles.append(handle)
        return handle

    def handle(self, file: File, *, write: bool) -> Handle:
        """Return an open file, to read from or also to write to."""
        fit = [
            handle for handle in self.handles if handle.file is file and handle.fits(write=write)
        ]
        if fit and self.draw.chance(0.8):
            return self.draw.one(fit)
        return self.open(file, os.O_RDWR if write or self.draw.chance(0.5) else os.O_RDONLY)

    def close(self, handle: Handle) -> None:
        self.note(handle.file, "close")
        self.handles.remove(handle)
        os.close(handle.fd)

    def unlink(self, name: str) -> None:
        file = self.named.pop(name)
        self.note(file, f"unlink({name})")
        os.unlink(self.path(name))
        file.names.remove(name)

    def tidy(self) -> None:
        """Close surplus files between operations, and now and then turn to another file."""
        while len(self.handles) > HANDLES:
            self.close(self.draw.one(self.handles))
        while len(self.mappings) > MAPPINGS:
            self._unmap(self.mappings[0])
        if self._focus is not None and self.draw.chance(0.004):
            if self.draw.chance(0.7):
                self._leave(self._focus)
            self._focus = None

    def _leave(self, file: File) -> None:
        for handle in [handle for handle in self.handles if handle.file is file]:
            self.close(handle)
        for pair in [pair for pair in self.mappings if pair[0] is file]:
            self._unmap(pair)

    def _unmap(self, pair: tuple[File, mmap.mmap]) -> None:
        file, mapping = pair
        self.note(file, "munmap")
        self.mappings.remove(pair)
        mapping.close()

    def close_all(self) -> None:
        for handle in [*self.handles]:
            self.close(handle)
        for pair in [*self.mappings]:
            self._unmap(pair)

    # -- mappings

    def mapping(self, file: File) -> tuple[File, mmap.mmap] | None:
        """Return a shared mapping of a file, or of another; None if the file is empty."""
        if self.mappings and self.draw.chance(0.5):
            return self.draw.one(self.mappings)
        if not (size := min(file.content.size, MAPPED_MAX)):
            return None
        fd = self.handle(file, write=True).fd
        self.note(file, f"mmap({size})")
        self.mappings.append((file, mmap.mmap(fd, size)))
        return self.mappings[-1]

    def load(self, mapping: mmap.mmap, start: int, size: int) -> bytes:
        """Return bytes of a mapping."""
        with memoryview(mapping) as view, view[start : start + size] as part:
            os.pwrite(self._memory, part, 0)
        return os.pread(self._memory, size, 0)

    def store(self, mapping: mmap.mmap, start: int, data: bytes) -> None:
        """Write bytes into a mapping."""
        os.pwrite(self._memory, data, 0)
        with memoryview(mapping) as view, view[start : start + len(data)] as part:
            os.preadv(self._memory, [part], 0)

    # -- checks

    def compare(self, file: File, start: int, got: bytes, size: int, how: str) -> None:
        """Fail unless `got` is the expected result of a read of `size` bytes."""
        wanted = file.content.read(start, size)
        if got == wanted:
            return
        self.touched = file
        if len(got) != len(wanted):
            raise Wrong(f"{how} at {start} of {size} bytes: {len(got)} and not {len(wanted)}")
        first = next(at for at, (a, b) in enumerate(zip(got, wanted, strict=True)) if a != b)
        wrong = sum(a != b for a, b in zip(got, wanted, strict=True))
        raise Wrong(
            f"{how} at {start} of {size} bytes: first wrong byte at {start + first} "
            f"({start + first:#x}), {wrong} wrong\n"
            f"  is     {got[first : first + 32].hex(' ')}\n"
            f"  not    {wanted[first : first + 32].hex(' ')}"
        )

    def check_attributes(self, file: File, fd: int) -> None:
        node = os.fstat(fd)
        links = 1 if file.part else len(file.names)
        size = node.st_size if file.part else file.content.size
        if (node.st_size, node.st_nlink, node.st_ino) != (size, links, file.inode):
            raise Wrong(
                f"fstat: size {node.st_size}, links {node.st_nlink}, inode {node.st_ino}, "
                f"not {size}, {links}, {file.inode}"
            )

    def check(self, file: File) -> None:
        """Compare all of a file."""
        fd = self.handle(file, write=False).fd
        self.note(file, "check all")
        self.check_attributes(file, fd)
        for start, stop in _to_check(file):
            for at in range(start, stop, CHUNK):
                size = min(CHUNK, stop - at)
                self.compare(file, at, os.pread(fd, size, at), size, "check")

    def check_names(self) -> None:
        for folder in ("", "sub"):
            present = set(os.listdir(self.path(folder))) - {"sub"}
            prefix = folder and folder + "/"
            names = {
                name.removeprefix(prefix) for name in self.named if name.count("/") == bool(folder)
            }
            if present != names:
                raise Wrong(f"listdir({folder}): {sorted(present)}, not {sorted(names)}")

    def check_all(self) -> None:
        """Compare all files and names."""
        self.check_names()
        for file in [*self.files(), *self._shared]:
            self.check(file)
        self.tidy()


def fallocate(fd: int, mode: int, start: int, size: int) -> None:
    """Call the system's own function, without the emulation of posix_fallocate(3)."""
    if _libc.fallocate(fd, mode, start, size):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _to_check(file: File) -> list[tuple[int, int]]:
    size = file.content.size
    if file.part is not None:
        return [file.part]
    if size <= WHOLE:
        return [(0, size + 1)]
    regions = [(max(0, start - PAGE), stop + PAGE) for start, stop in file.content.regions()]
    return [*regions, (max(0, size - PAGE), size + 1)]
