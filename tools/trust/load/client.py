"""A process that reads, writes, renames and deletes, and checks every byte it reads.

Each name is changed by one process and read by all. The beginning of a file determines all of it,
so that a reader sees if it is half old and half new, or cut short. The file `edited` is changed in
place and read by its owner only. If the mount is ended during a change, a name may have its old or
its new file.
"""

import enum
import hashlib
import json
import mmap
import os
import random
import signal
import struct
from collections.abc import Callable
from multiprocessing.sharedctypes import SynchronizedArray
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from tools.trust.load.rig import MIB

HEAD: Final = struct.Struct("<QQQ")
SIZES: Final = (100, 4096, 100_000, MIB, 3 * MIB + 17, 16 * MIB)
SIZE_WEIGHTS: Final = (20, 20, 20, 15, 15, 10)
TENSORS: Final = 64  # of which models choose
TENSOR_BYTES: Final = 512 << 10
EDITED_MAX: Final = 8 * MIB
NAMES: Final = 100
BLOCKS: Final = (4096, 50_000, MIB)
PAGE: Final = 4096


class Kind(enum.IntEnum):
    """The function that makes a file's content from its seed."""

    NOISE = 1
    WORDS = 2  # compressible, so that it has to be decoded to be read
    MODEL = 3  # a safetensors file of tensors that others have too


class Version(NamedTuple):
    """The content of a file, in short; JSON makes a list of it."""

    kind: int
    seed: int
    size: int


def content(version: Version) -> bytes:
    """Return all bytes of a file."""
    if version.kind == Kind.MODEL:
        return _model(version.seed)
    rest = version.size - HEAD.size
    body = (_words if version.kind == Kind.WORDS else _noise)(version.seed, rest)
    return HEAD.pack(*version) + body


def _noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _words(seed: int, size: int) -> bytes:
    return np.arange(seed, seed + size // 8 + 1, dtype="<u8").tobytes()[:size]


def _model(seed: int) -> bytes:
    draw = random.Random(seed)
    chosen = [draw.randrange(TENSORS) for _ in range(draw.randint(1, 12))]
    entries: dict[str, object] = {"__metadata__": {"seed": str(seed)}}
    for at in range(len(chosen)):
        span = [at * TENSOR_BYTES, (at + 1) * TENSOR_BYTES]
        entries[f"t{at}"] = {"dtype": "U8", "shape": [TENSOR_BYTES], "data_offsets": span}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    tensors = (_noise(1_000_000_000 + number, TENSOR_BYTES) for number in chosen)
    return struct.pack("<Q", len(header)) + header + b"".join(tensors)


def is_right(data: bytes) -> bool:
    """Whether these are all bytes of a file that `content` makes."""
    if data[8:22] == b'{"__metadata__':
        return data == _model(int(data[:100].split(b'"')[5]))
    if len(data) < HEAD.size:
        return False
    version = Version(*HEAD.unpack_from(data))
    return version.size == len(data) and data == content(version)


class Client:
    """One process and its folder."""

    def __init__(self, top: Path, number: int, budget: int, seed: int) -> None:
        self._top = top
        self._folder = top / f"p{number}"
        self._budget = budget
        self._draw = random.Random(seed)
        self._files: dict[str, Version] = {}
        self._edited = bytearray()
        self._pending: dict[str, list[Version | None]] = {}
        self._mapping: tuple[mmap.mmap, bytes] | None = None
        self.progress: Callable[[], None] = lambda: None
        self.counts: dict[str, int] = {}
        self.wrong: list[str] = []
        self.written = 0

    def run(self, stop: Event, ending: Event) -> None:
        """Work until `stop` is set, or until the mount ends after `ending` was set."""
        steps = (
            (self.write, 10),
            (self.read_own, 6),
            (self.read_any, 10),
            (self.rename, 3),
            (self.delete, 2),
            (self.edit, 6),
            (self.map, 4),
        )
        work, weights = zip(*steps, strict=True)
        self._folder.mkdir()
        while not stop.is_set():
            step = self._draw.choices(work, weights)[0]
            try:
                step()
            except OSError as exc:
                if ending.is_set():
                    break
                self.wrong.append(f"{step.__name__}: {exc}")
            self._pending.clear()
            self.counts[step.__name__] = self.counts.get(step.__name__, 0) + 1
            self.progress()

    def expected(self) -> dict[str, list[Version | None]]:
        """Return the allowed versions of each name; None stands for no file."""
        names = self._files.keys() | self._pending.keys()
        return {name: self._pending.get(name, [self._files.get(name)]) for name in names}

    def edited(self) -> str | None:
        """Return a hash of the edited file; None if a change of it was under way."""
        return None if "edited" in self._pending else hashlib.sha256(self._edited).hexdigest()

    # -- steps

    def write(self) -> None:
        """Write a file under another name, and rename it over an old one, if there is one."""
        if sum(version.size for version in self._files.values()) > 1.5 * self._budget:
            self.delete()
            return
        kind = self._draw.choice(list(Kind))
        size = self._draw.choices(SIZES, SIZE_WEIGHTS)[0]
        seed = self._draw.getrandbits(40)
        data = content(Version(kind, seed, size))
        version = Version(kind, seed, len(data))
        scratch = self._folder / ".scratch"
        self._write_to(scratch, data, durable=self._draw.random() < 0.3)
        name = self._any_name()
        self._pending[name] = [self._files.get(name), version]
        scratch.rename(self._folder / name)
        self._files[name] = version

    def read_own(self) -> None:
        if name := self._own_name():
            version = self._files[name]
            self._check(self._read(self._folder / name) == content(version), name, "read_own")

    def read_any(self) -> None:
        """Read a file of another process, which may be replaced or removed meanwhile."""
        try:
            folder = self._draw.choice(list(self._top.glob("p*")))
            names = [path for path in folder.iterdir() if path.name[0] == "n"]
            data = self._read(self._draw.choice(names)) if names else None
        except FileNotFoundError:
            return
        self._check(data is None or is_right(data), folder.name, "read_any")

    def rename(self) -> None:
        old, new = self._own_name(), self._any_name()
        if old is None or old == new:
            return
        version = self._files[old]
        self._pending[old] = [version, None]
        self._pending[new] = [self._files.get(new), version]
        (self._folder / old).rename(self._folder / new)
        self._files[new] = self._files.pop(old)

    def delete(self) -> None:
        if name := self._own_name():
            self._pending[name] = [self._files[name], None]
            (self._folder / name).unlink()
            del self._files[name]

    def edit(self) -> None:
        """Change a file in place: write at some offset or cut it, and read it back at times."""
        path = self._folder / "edited"
        self._pending["edited"] = []
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if self._draw.random() < 0.2:
                self._cut(fd)
            else:
                self._patch(fd)
            if self._draw.random() < 0.2:
                os.fsync(fd)
        finally:
            os.close(fd)
        if self._draw.random() < 0.3:
            self._check(self._read(path) == self._edited, "edited", "edit")

    def map(self) -> None:
        """Read pages of a mapping that outlives the file's name."""
        if self._mapping is None:
            large = [name for name, version in self._files.items() if version.size > MIB]
            if large:
                self._begin_mapping(self._draw.choice(large))
            return
        mapping, data = self._mapping
        for _ in range(50):
            at = self._draw.randrange(len(data) // PAGE) * PAGE
            self._check(mapping[at : at + PAGE] == data[at : at + PAGE], f"page {at}", "map")
        if self._draw.random() < 0.05:
            self._mapping = None

    # -- parts of steps

    def _write_to(self, path: Path, data: bytes, *, durable: bool) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            block = self._draw.choice(BLOCKS)
            for start in range(0, len(data), block):
                os.write(fd, data[start : start + block])
                self.progress()
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        self.written += len(data)

    def _read(self, path: Path) -> bytes:
        parts: list[bytes] = []
        with path.open("rb", buffering=0) as file:
            if self._draw.random() < 0.5:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while part := file.read(4 * MIB):
                parts.append(part)
                self.progress()
        return b"".join(parts)

    def _cut(self, fd: int) -> None:
        size = self._draw.randrange(EDITED_MAX)
        os.ftruncate(fd, size)
        self._edited = self._edited[:size].ljust(size, b"\0")

    def _patch(self, fd: int) -> None:
        data = self._draw.randbytes(self._draw.choice((1, 5000, 300_000)))
        at = self._draw.randrange(EDITED_MAX - len(data))
        os.pwrite(fd, data, at)
        self._edited.extend(bytes(max(0, at + len(data) - len(self._edited))))
        self._edited[at : at + len(data)] = data
        self.written += len(data)

    def _begin_mapping(self, name: str) -> None:
        with (self._folder / name).open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self._mapping = mapping, content(self._files[name])

    def _own_name(self) -> str | None:
        return self._draw.choice(list(self._files)) if self._files else None

    def _any_name(self) -> str:
        return f"n{self._draw.randrange(NAMES)}"

    def _check(self, right: bool, what: str, step: str) -> None:
        if not right:
            self.wrong.append(f"{step}: wrong bytes in {self._folder.name}, {what}")


class Task(NamedTuple):
    """The task of a client's process."""

    top: Path
    results: Path
    number: int
    budget: int
    seed: int


def work(task: Task, stop: Event, ending: Event, ticks: "SynchronizedArray[int]") -> None:
    """Run a client, and write its report."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    client = Client(task.top, task.number, task.budget, task.seed)

    def progress() -> None:
        ticks[task.number] += 1

    client.progress = progress
    client.run(stop, ending)
    report = {
        "counts": client.counts,
        "wrong": client.wrong,
        "written": client.written,
        "files": client.expected(),
        "edited": client.edited(),
    }
    (task.results / f"{task.number}.json").write_text(json.dumps(report))
