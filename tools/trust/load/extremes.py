"""Load tests of one extreme thing each: many faults, many names, many extents, a huge file."""

import contextlib
import hashlib
import json
import mmap
import os
import random
import shutil
import statistics
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from tools.trust.load.probe import Latency, probing
from tools.trust.load.rig import MIB, Monitor, Rig
from tools.trust.load.table import Table

PAGE: Final = 4096
FAULT_THREADS: Final = 32
DEADLOCK_SECONDS: Final = 30.0
HUGE: Final = 10**15
TENSOR_BYTES: Final = 256
STALL_MAX: Final = 0.1


# -- faults


def faults(rig: Rig, table: Table, seconds: float, size: int) -> None:
    """Let 32 threads fault pages of one mapping, of plain chunks and of coded ones."""
    for name, compressible in (("plain", False), ("coded", True)):
        path = rig.path / name
        _write_words(path, size, compressible=compressible)
    rig.sync()
    rig.remount()
    for name, compressible in (("plain", False), ("coded", True)):
        with Monitor(rig).watching() as peak, probing(rig) as measured:
            pages, wrong, stuck = _fault_all(rig.path / name, seconds, compressible)
        table.row(f"pages faulted, {name} chunks", pages)
        table.row(f"wrong pages, {name} chunks", wrong, holds=not wrong)
        table.row(f"threads stuck, {name} chunks", stuck, holds=not stuck)
        table.latency(f"{name} faults", measured)
        table.memory(rig, peak)


def _words(start: int, size: int, *, compressible: bool) -> bytes:
    # Each u64 is its position in the file; multiplied by an odd number it looks like noise.
    numbers = np.arange(start // 8, (start + size) // 8, dtype="<u8")
    factor = 1 if compressible else 0x9E3779B97F4A7C15
    numbers *= np.uint64(factor)
    if not compressible:
        numbers ^= numbers >> np.uint64(29)
        numbers *= np.uint64(0xBF58476D1CE4E5B9)
    return numbers.tobytes()


def _write_words(path: Path, size: int, *, compressible: bool) -> None:
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(_words(start, MIB, compressible=compressible))


def _fault_all(path: Path, seconds: float, compressible: bool) -> tuple[int, int, int]:
    """Return how many pages were faulted, how many were wrong, and how many threads hang."""
    counts = [0] * FAULT_THREADS
    wrong = [0] * FAULT_THREADS
    deadline = time.monotonic() + seconds
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        mapping.madvise(mmap.MADV_RANDOM)
        view = memoryview(mapping)

        def fault(number: int) -> None:
            draw = random.Random(number)
            while time.monotonic() < deadline:
                at = draw.randrange(len(mapping) // PAGE) * PAGE
                # Hashing lets go of Python's lock, so that the threads fault at the same time.
                digest = hashlib.sha256(view[at : at + PAGE]).digest()
                page = _words(at, PAGE, compressible=compressible)
                wrong[number] += digest != hashlib.sha256(page).digest()
                counts[number] += 1

        threads = [
            threading.Thread(target=fault, args=(number,), daemon=True)
            for number in range(FAULT_THREADS)
        ]
        for thread in threads:
            thread.start()
        while time.monotonic() < deadline:
            time.sleep(min(1.0, seconds / 4))
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for thread in threads:
            thread.join(DEADLOCK_SECONDS)
        return sum(counts), sum(wrong), sum(thread.is_alive() for thread in threads)


# -- names


def names(rig: Rig, table: Table, count: int) -> None:
    """Make many files in one directory, list, look up, list after a remount, remove."""
    folder = rig.path / "folder"
    folder.mkdir()
    with Monitor(rig).watching() as peak:
        with probing(rig) as measured, timed(table, f"create {count:,} files"):
            for number in range(count):
                (folder / f"{number:06}").write_bytes(b"%d" % number)
        table.latency("create", measured)
        with probing(rig) as measured, timed(table, "until they are in chunks (sync)"):
            rig.sync()
        table.latency("sync", measured)
        _list(folder, table, count, "list")
        with timed(table, "stat each"):
            total = sum((folder / f"{number:06}").stat().st_size for number in range(count))
        table.row("sizes", total, holds=total == sum(len(str(number)) for number in range(count)))
        with timed(table, "remount"):
            rig.remount()
        with probing(rig) as measured:
            _list(folder, table, count, "list, nothing cached")
        table.latency("list, nothing cached", measured)
        _sample_names(folder, table, count)
        with probing(rig) as measured, timed(table, "rm -r"):
            shutil.rmtree(folder)
        with probing(rig) as after:
            _wait_until_idle(rig)
        table.latency("rm -r", measured)
        table.latency("behind rm -r", after)
        stalled(table, "rm -r", measured, after)
    table.memory(rig, peak)


def _list(folder: Path, table: Table, count: int, what: str) -> None:
    with timed(table, what), os.scandir(folder) as entries:
        listed = {entry.name for entry in entries}
    table.row(f"{what}: names", len(listed), holds=len(listed) == count)


def _sample_names(folder: Path, table: Table, count: int) -> None:
    draw = random.Random(1)
    wrong = 0
    for number in draw.sample(range(count), min(count, 2000)):
        wrong += (folder / f"{number:06}").read_bytes() != b"%d" % number
    table.row("wrong files of 2,000", wrong, holds=not wrong)


# -- extents


def extents(rig: Rig, table: Table, count: int) -> None:
    """Read a file of many extents at both ends; remove one, truncate one, edit one."""
    with Monitor(rig).watching() as peak:
        for name in ("read", "cut", "edited"):
            _write_tiny_tensors(rig.path / name, count, seed=len(name))
        with probing(rig) as measured, timed(table, f"ingest 3 files of {count:,} tensors"):
            rig.sync()
        table.latency("ingest", measured)
        stalled(table, "ingest", measured)
        rig.remount()
        _read_both_ends(rig.path / "read", table)
        with probing(rig) as measured, timed(table, "edit one byte, until in chunks"):
            _edit(rig.path / "edited")
            rig.sync()
        stalled(table, "edit", measured)
        with probing(rig) as measured, timed(table, "truncate to nothing, until done"):
            os.truncate(rig.path / "cut", 0)
            rig.sync()
        table.latency("truncate", measured)
        stalled(table, "truncate", measured)
        with probing(rig) as measured, timed(table, "rm -r, until done"):
            (rig.path / "read").unlink()
            _wait_until_idle(rig)
        table.latency("rm", measured)
        stalled(table, "rm", measured)
        with probing(rig) as measured, timed(table, "gc"):
            rig.collect()
        table.latency("gc", measured)
        stalled(table, "gc", measured)
    table.memory(rig, peak)


def _write_tiny_tensors(path: Path, count: int, seed: int) -> None:
    entries = {
        f"t{number}": {
            "dtype": "U8",
            "shape": [TENSOR_BYTES],
            "data_offsets": [number * TENSOR_BYTES, (number + 1) * TENSOR_BYTES],
        }
        for number in range(count)
    }
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    data = random.Random(seed).randbytes(count * TENSOR_BYTES)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def _read_both_ends(path: Path, table: Table) -> None:
    size = path.stat().st_size
    took: dict[float, list[float]] = {0.0: [], 0.99: []}
    draw = random.Random(1)
    for _ in range(200):
        for part, column in took.items():
            offset = int(part * size) // PAGE * PAGE + draw.randrange(64) * PAGE
            column.append(_read_cold(path, offset))
    first, last = (1e3 * statistics.median(column) for column in took.values())
    table.row("median cold read of 4 KiB at 0 %, at 99 %", f"{first:.2f} ms, {last:.2f} ms")


def _read_cold(path: Path, offset: int) -> float:
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        start = time.perf_counter()
        os.pread(file.fileno(), PAGE, offset)
        return time.perf_counter() - start


def _edit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"x")


# -- a huge file


def huge(rig: Rig, table: Table) -> None:
    """Make a file of 10^15 bytes, read and write at places, and remove it."""
    path = rig.path / "huge"
    before = rig.disk_bytes()
    with Monitor(rig).watching() as peak, probing(rig) as measured:
        with timed(table, f"truncate to {HUGE:,} bytes"):
            path.touch()
            os.truncate(path, HUGE)
        table.row("size", path.stat().st_size, holds=path.stat().st_size == HUGE)
        with timed(table, "read 64 KiB at 100 places"):
            wrong = sum(_read_at(path, at) != bytes(65536) for at in range(0, HUGE, HUGE // 100))
        table.row("places that are not zeros", wrong, holds=not wrong)
        with timed(table, "write the last byte, and fsync"):
            _write_at(path, HUGE - 1, b"x")
        with timed(table, "sync"):
            rig.sync()
        read = _read_at(path, HUGE - 5)
        table.row("the last bytes", read, holds=read == b"\0\0\0\0x")
        table.row("disk taken", f"{rig.disk_bytes() - before:,} bytes")
        with timed(table, "cut to half, and back"):
            os.truncate(path, HUGE // 2)
            os.truncate(path, HUGE)
        with timed(table, "remove, until done"):
            path.unlink()
            _wait_until_idle(rig)
    table.latency("huge file", measured)
    table.memory(rig, peak)


def _read_at(path: Path, offset: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), 65536, offset)


def _write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), data, offset)
        os.fsync(file.fileno())


# -- shared parts


@contextlib.contextmanager
def timed(table: Table, what: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    table.row(what, f"{time.monotonic() - start:.2f} s")


def stalled(table: Table, what: str, *measured: list[Latency]) -> None:
    """Add a row with the longest wait of other requests, less that for a processor."""
    longest = max(mount.longest for mount, _ in measured)
    value = f"{1e3 * longest:.0f} ms"
    table.row(f"{what}: longest stall of other requests", value, holds=longest < STALL_MAX)


def _wait_until_idle(rig: Rig) -> None:
    """Wait until the daemon has used no processor time for a while."""
    idle = 0
    before = _ticks(rig)
    while idle < 5:
        time.sleep(0.2)
        now = _ticks(rig)
        # The probe and the clocks use some.
        idle = idle + 1 if now - before <= 3 else 0
        before = now


def _ticks(rig: Rig) -> int:
    fields = Path(f"/proc/{rig.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
