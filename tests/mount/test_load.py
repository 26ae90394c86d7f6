"""Concurrent programs and large files; `tools/run trust.load` does the same at full size."""

import hashlib
import json
import mmap
import os
import random
import shutil
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import DEADLINE, Mount, drop_kernel_caches, mounted

pytestmark = pytest.mark.mount

PAGE = 4096
CLIENTS = 8

# A process that changes its own files and reads all files; the first bytes of a file determine
# the others.
CLIENT = """
    import os, random, sys
    from pathlib import Path

    top, number, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    draw = random.Random(number)
    mine = {}

    def content(seed):
        data = random.Random(seed).randbytes(random.Random(-seed - 1).choice((8, 5000, 300_000)))
        return b"%016d" % seed + (data if seed % 2 else bytes(len(data)))

    def write(name):
        seed = draw.randrange(10**15)
        with open(top / f"{number}.tmp", "wb", buffering=0) as file:
            file.write(content(seed))
            if draw.random() < 0.1:
                os.fsync(file.fileno())
        os.rename(top / f"{number}.tmp", top / name)
        mine[name] = seed

    def check(name):
        assert (top / name).read_bytes() == content(mine[name]), name

    def read_any():
        name = f"{draw.randrange(8)}-{draw.randrange(10)}"
        try:
            data = (top / name).read_bytes()
        except FileNotFoundError:
            return
        assert data == content(int(data[:16])), name

    for step in range(steps):
        name = f"{number}-{draw.randrange(10)}"
        other = f"{number}-{draw.randrange(10)}"
        kind = draw.choice("wwwrroooomd")
        if kind == "w" or name not in mine:
            write(name)
        elif kind == "r":
            check(name)
        elif kind == "o":
            read_any()
        elif kind == "m" and name != other:
            os.rename(top / name, top / other)
            mine[other] = mine.pop(name)
        elif kind == "d":
            os.unlink(top / name)
            del mine[name]
    for name in mine:
        check(name)
    print(*mine)
"""


def start_client(top: Path, number: int, steps: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CLIENT), str(top), str(number), str(steps)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_eight_processes_at_once(here: Path) -> None:
    """Writing, reading, renaming and deleting beside one another goes wrong in no byte."""
    clients = [start_client(here, number, 250) for number in range(CLIENTS)]
    names: set[str] = set()
    for client in clients:
        output, problem = client.communicate(timeout=DEADLINE * 4)
        assert client.returncode == 0, problem
        names.update(output.split())
    assert {path.name for path in here.iterdir()} == names


def words(start: int, stop: int) -> bytes:
    """Return file content in which every eight bytes say where they are; it is compressible."""
    return struct.pack(f"<{(stop - start) // 8}Q", *range(start // 8, stop // 8))


@pytest.fixture
def small_cache(fuse: None, store: Path, tmp_path: Path) -> Iterator[Mount]:
    """A mount that keeps at most 16 MiB of decoded chunks."""
    with mounted(store, tmp_path / "mnt", "--cache-size", "16MiB") as mount:
        yield mount


def test_threads_fault_one_mapping(small_cache: Mount) -> None:
    """32 threads that fault pages of a mapping larger than the cache get the right bytes."""
    path = small_cache.path / "words"
    size = 48 << 20
    with path.open("wb") as target:
        for start in range(0, size, 1 << 20):
            target.write(words(start, start + (1 << 20)))
    small_cache.sync()
    assert small_cache.stats()["forms"]["zstd"]["chunks"] == 48
    drop_kernel_caches()
    wrong: list[int] = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        mapping.madvise(mmap.MADV_RANDOM)
        view = memoryview(mapping)

        def fault(number: int) -> None:
            draw = random.Random(number)
            for _ in range(20):
                at = draw.randrange(size // PAGE) * PAGE
                # Hashing lets go of Python's lock, so that the threads fault at the same time.
                with view[at : at + PAGE] as page:
                    found = hashlib.sha256(page).digest()
                if found != hashlib.sha256(words(at, at + PAGE)).digest():
                    wrong.append(at)

        threads = [threading.Thread(target=fault, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert not any(thread.is_alive() for thread in threads)
        view.release()
    assert wrong == []


def test_a_huge_file_costs_nothing(mount: Mount) -> None:
    """A file of 10^15 bytes is made, written at its end, read, ingested and removed at once."""
    path = mount.path / "huge"
    path.touch()
    os.truncate(path, 10**15)
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"x", 10**15 - 1)
    os.fsync(fd)
    assert os.pread(fd, 100, 10**15 - 5) == b"\0\0\0\0x"
    assert os.pread(fd, PAGE, 10**14) == bytes(PAGE)
    os.close(fd)
    mount.sync()
    mount.remount()
    assert path.stat().st_size == 10**15
    assert mount.stats()["stored_bytes"] < PAGE
    path.unlink()
    assert list(mount.path.iterdir()) == []


def test_many_names_are_listed_while_they_go(here: Path) -> None:
    """A listing that began before names were deleted has all others, and each of them once."""
    for number in range(2000):
        (here / f"{number}").touch()
    seen: list[str] = []
    with os.scandir(here) as entries:
        for entry in entries:
            seen.append(entry.name)
            if int(entry.name) % 3 == 0:
                os.unlink(here / entry.name)
    assert len(seen) == len(set(seen))
    assert {name for name in seen if int(name) % 3} == {str(n) for n in range(2000) if n % 3}
    assert sum(1 for _ in here.iterdir()) == len(range(2000)) - len(range(0, 2000, 3))
    shutil.rmtree(here)


def tiny_tensors(count: int) -> bytes:
    """Return a safetensors file of tensors that are just worth a chunk each."""
    entries = {
        f"t{number}": {
            "dtype": "U8",
            "shape": [128],
            "data_offsets": [128 * number, 128 * (number + 1)],
        }
        for number in range(count)
    }
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + random.Random(1).randbytes(128 * count)


def test_a_file_of_many_extents(mount: Mount) -> None:
    """What takes many slices to ingest, edit, cut and remove is right after each."""
    data = bytearray(tiny_tensors(1500))
    path, other = mount.path / "model", mount.path / "other"
    path.write_bytes(data)
    other.write_bytes(data)
    mount.remount()
    mount.sync()
    with path.open("r+b") as file:
        file.seek(len(data) - 1000)
        file.write(b"edited")
    data[-1000:-994] = b"edited"
    os.truncate(other, len(data) // 2)
    mount.remount(drop_caches=True)
    assert path.read_bytes() == data
    assert other.stat().st_size == len(data) // 2
    path.unlink()
    mount.sync()
    assert other.read_bytes() == data[: len(data) // 2]


def test_unmounting_waits_for_written_files(mount: Mount) -> None:
    """All that was written before `umount`, without an fsync, is there afterwards."""
    files = {f"{number}": random.Random(number).randbytes(200_000) for number in range(50)}
    client = start_client(mount.path, 1, 200)
    for name, data in files.items():
        (mount.path / name).write_bytes(data)
    output, problem = client.communicate(timeout=DEADLINE * 4)
    assert client.returncode == 0, problem
    mount.remount(drop_caches=True)
    assert {name: (mount.path / name).read_bytes() for name in files} == files
    assert {path.name for path in mount.path.iterdir()} == files.keys() | set(output.split())


# Writes files, and reports each when it is closed, until the mount is gone.
WRITER = """
    import random, sys
    from pathlib import Path

    folder = Path(sys.argv[1])
    for number in range(10**6):
        with open(folder / f"{number}", "wb") as file:
            file.write(random.Random(number).randbytes(100_000))
        print(number, flush=True)
"""


def test_ending_under_load_waits_for_written_files(mount: Mount) -> None:
    """A daemon that gets SIGTERM under load makes all closed files durable."""
    folder = mount.path / "folder"
    folder.mkdir()
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    names = [writer.stdout.readline().strip() for _ in range(30)]
    mount.terminate()
    rest, problem = writer.communicate(timeout=DEADLINE)
    assert "Error" in problem
    mount.start()
    for name in names + rest.split():
        assert (folder / name).read_bytes() == random.Random(int(name)).randbytes(100_000), name
