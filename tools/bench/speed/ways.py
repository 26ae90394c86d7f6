"""The ways to read a file. Each returns the number of bytes, or of calls, that came."""

import mmap
import os
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from tools.bench import decode
from tools.bench.speed.figures import Unit

with suppress(ImportError):
    import ml_dtypes  # noqa: F401 - numpy has bfloat16 by it

READERS: Final = 8
PAGE: Final = 4096
RANDOM_READS: Final = 4000


@dataclass(frozen=True, slots=True)
class Way:
    """A way to read a file, which returns the amount for it."""

    name: str
    read: Callable[[Path], int]
    amount: Callable[[Path], int]
    unit: Unit = Unit.SPEED


def _size(path: Path) -> int:
    return path.stat().st_size


def load(path: Path) -> int:
    """Load all tensors into new memory at once."""
    return _with_header(path, load_file(path).values())


def open_tensors(path: Path) -> int:
    """Open a file, and load one tensor after the other into new memory."""
    with safe_open(path, "np") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - it is no dict
    return _with_header(path, tensors)


def _with_header(path: Path, tensors: Iterable[NDArray[Any]]) -> int:
    with path.open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    return header + sum(tensor.nbytes for tensor in tensors)


def touch(path: Path) -> int:
    """Read one byte of each page of a mapping."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        view = np.frombuffer(pages, np.uint8)
        view[::PAGE].sum()
        size = view.size
        del view
    return size


def read_at_once(path: Path) -> int:
    """Read the file by several threads, each from begin to end."""
    with ThreadPoolExecutor(READERS) as pool:
        return sum(pool.map(decode.read, [path] * READERS))


def read_directly(path: Path) -> int:
    """Read past the kernel's page cache."""
    total, size = 0, path.stat().st_size
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, decode.BLOCK) as buffer:  # which begins at a page
            while total < size and (got := os.preadv(fd, [buffer], total)):
                total += got
    finally:
        os.close(fd)
    return total


def read_pages(path: Path) -> int:
    """Read single pages at random places."""
    chance = random.Random(1)
    last = max(1, path.stat().st_size // PAGE)
    fd = os.open(path, os.O_RDONLY)
    try:
        places = (chance.randrange(last) * PAGE for _ in range(RANDOM_READS))
        return sum(1 for place in places if os.pread(fd, PAGE, place))
    finally:
        os.close(fd)


READ: Final = Way("read", decode.read, _size)
COPIED: Final = Way("mapped, copied", decode.mapped, _size)
LOAD_FILE: Final = Way("load_file", load, _size)
SAFE_OPEN: Final = Way("safe_open", open_tensors, _size)
MAP: Final = Way("mapped, touched", touch, _size)
AT_ONCE: Final = Way(f"{READERS} readers", read_at_once, lambda path: READERS * _size(path))
DIRECT: Final = Way("O_DIRECT", read_directly, _size)
RANDOM: Final = Way("random 4 KiB", read_pages, lambda _: RANDOM_READS, Unit.TIME)
