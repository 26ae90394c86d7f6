"""Reading, writing, mapping and cutting files on a mount, as POSIX and Linux have it."""

import errno
import fcntl
import hashlib
import mmap
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounts import Mount, run_python
from tests.support.syscalls import aligned

pytestmark = pytest.mark.mount

FICLONE = 0x40049409
CONTENT = random.Random(1).randbytes(3_000_001)


@contextmanager
def opened(path: Path, flags: int, mode: int = 0o644) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def stored(here: Path, shared_mount: Mount) -> Path:
    """A file of `CONTENT`, cut into chunks and in no cache of the kernel."""
    path = here / "stored"
    path.write_bytes(CONTENT)
    shared_mount.cool()
    return path


def test_direct_read_at_the_end(stored: Path) -> None:
    """A direct read over the end of a file is short; one behind it is empty."""
    buffer = aligned(bytes(16384))
    last = len(CONTENT) // 4096 * 4096
    with opened(stored, os.O_RDONLY | os.O_DIRECT) as fd:
        assert os.preadv(fd, [buffer], last) == len(CONTENT) - last
        assert buffer[: len(CONTENT) - last] == CONTENT[last:]
        assert os.preadv(fd, [buffer], last + 4096) == 0


def test_direct_read(stored: Path) -> None:
    """Direct reads of a megabyte return a stored file's bytes."""
    buffer = aligned(bytes(1 << 20))
    digest = hashlib.sha256()
    with opened(stored, os.O_RDONLY | os.O_DIRECT) as fd:
        while size := os.readv(fd, [buffer]):
            digest.update(buffer[:size])
    assert digest.digest() == hashlib.sha256(CONTENT).digest()


def test_direct_write(here: Path) -> None:
    """Direct writes land where they are aimed, and buffered readers see them."""
    with opened(here / "x", os.O_WRONLY | os.O_CREAT | os.O_DIRECT) as fd:
        assert os.pwritev(fd, [aligned(b"a" * 8192)], 0) == 8192
        assert os.pwritev(fd, [aligned(b"b" * 4096)], 4096) == 4096
    assert (here / "x").read_bytes() == b"a" * 4096 + b"b" * 4096


def test_populated_mapping(stored: Path) -> None:
    """A shared mapping that is populated at once, as llama.cpp has it, holds the file."""
    digest = run_python(
        """
        import hashlib, mmap, os, sys

        fd = os.open(sys.argv[1], os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        mapping = mmap.mmap(fd, 0, flags=flags, prot=mmap.PROT_READ)
        mapping.madvise(mmap.MADV_WILLNEED)
        os.close(fd)
        print(hashlib.sha256(mapping).hexdigest())
        """,
        stored,
    )
    assert digest.strip() == hashlib.sha256(CONTENT).hexdigest()


def test_many_faults_on_one_mapping(stored: Path) -> None:
    """Sixteen threads that fault in one mapping at random places read the right pages."""
    run_python(
        """
        import mmap, os, random, sys
        from concurrent.futures import ThreadPoolExecutor

        expected = random.Random(1).randbytes(3_000_001)
        with open(sys.argv[1], "rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        mapping.madvise(mmap.MADV_RANDOM)

        def check(offset):
            return mapping[offset : offset + 100] == expected[offset : offset + 100]

        offsets = random.Random(2).sample(range(len(expected)), 2000)
        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(check, offsets))
        """,
        stored,
    )


def test_mapping_written_after_close(here: Path, shared_mount: Mount) -> None:
    """A shared mapping can be written after its descriptor was closed; the file has it all."""
    run_python(
        """
        import mmap, os, sys

        fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(fd, 1_000_000)
        mapping = mmap.mmap(fd, 0)
        os.close(fd)
        for offset in range(0, 1_000_000, 10_000):
            mapping[offset : offset + 5] = b"%05d" % (offset // 10_000)
        """,
        here / "x",
    )
    shared_mount.cool()
    content = (here / "x").read_bytes()
    assert len(content) == 1_000_000
    assert [content[n * 10_000 :][:6] for n in range(100)] == [b"%05d\0" % n for n in range(100)]


def test_mapping_over_stored_bytes(stored: Path, shared_mount: Mount) -> None:
    """Bytes changed through a mapping of a stored file change there, and only they."""
    run_python(
        """
        import mmap, os, sys

        with open(sys.argv[1], "r+b") as file:
            mapping = mmap.mmap(file.fileno(), 0)
        mapping[1_048_570:1_048_580] = b"0123456789"
        mapping.flush()
        """,
        stored,
    )
    shared_mount.cool()
    assert stored.read_bytes() == CONTENT[:1_048_570] + b"0123456789" + CONTENT[1_048_580:]


def test_cloning_is_not_supported(here: Path, stored: Path) -> None:
    """FICLONE fails in a way that makes `cp` copy."""
    with opened(stored, os.O_RDONLY) as source, opened(here / "x", os.O_RDWR | os.O_CREAT) as fd:
        with pytest.raises(OSError) as failure:  # noqa: PT011 - its errno is checked below
            fcntl.ioctl(fd, FICLONE, source)
        assert failure.value.errno in {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL}


def test_copy_file_range(stored: Path, here: Path) -> None:
    """copy_file_range(2) between two files of a mount copies the bytes."""
    with opened(stored, os.O_RDONLY) as source, opened(here / "x", os.O_RDWR | os.O_CREAT) as fd:
        copied = 0
        while size := os.copy_file_range(source, fd, 1 << 30):
            copied += size
    assert copied == len(CONTENT)
    assert (here / "x").read_bytes() == CONTENT


def test_appending_in_turns(here: Path) -> None:
    """Two descriptors that append in turns never overwrite each other."""
    with (
        opened(here / "x", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as one,
        opened(here / "x", os.O_WRONLY | os.O_APPEND) as two,
    ):
        for number in range(100):
            os.write((one, two)[number % 2], b"%03d " % number)
    assert (here / "x").read_text().split() == [f"{number:03}" for number in range(100)]


def test_appending_at_once(here: Path) -> None:
    """Records that eight threads append are all there, each whole."""

    def append(writer: int) -> None:
        with opened(here / "x", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as fd:
            for number in range(50):
                os.write(fd, f"{writer}:{number:02}".ljust(99, ".").encode() + b"\n")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append, range(8)))
    lines = (here / "x").read_text().splitlines()
    assert sorted(line.rstrip(".") for line in lines) == sorted(
        f"{writer}:{number:02}" for writer in range(8) for number in range(50)
    )


def test_appending_to_stored_bytes(stored: Path, shared_mount: Mount) -> None:
    """Bytes appended to a stored file come behind its old ones."""
    with stored.open("ab") as file:
        file.write(b"tail")
    assert stored.read_bytes() == CONTENT + b"tail"
    shared_mount.cool()
    assert stored.read_bytes() == CONTENT + b"tail"


def test_only_one_creates(here: Path) -> None:
    """Of many that create a name exclusively one succeeds, the others see EEXIST."""

    def create(_: int) -> bool:
        try:
            with opened(here / "x", os.O_WRONLY | os.O_CREAT | os.O_EXCL):
                return True
        except FileExistsError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(64))) == 1


def test_writable_descriptor_of_a_read_only_file(here: Path) -> None:
    """A file created read-only is written through the descriptor that created it."""
    with opened(here / "x", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o444) as fd:
        os.write(fd, b"object")
        assert os.pread(fd, 10, 0) == b"object"
    assert (here / "x").read_bytes() == b"object"
    assert (here / "x").stat().st_mode & 0o777 == 0o444


def test_size_set_before_the_first_write(here: Path, shared_mount: Mount) -> None:
    """A file given its length first and filled partly has zeros in between and behind."""
    with opened(here / "x", os.O_WRONLY | os.O_CREAT) as fd:
        os.ftruncate(fd, 3_000_000)
        os.pwrite(fd, b"middle", 1_500_000)
        os.pwrite(fd, b"start", 0)
    expected = bytearray(3_000_000)
    expected[:5], expected[1_500_000:1_500_006] = b"start", b"middle"
    assert (here / "x").read_bytes() == expected
    shared_mount.cool()
    assert (here / "x").read_bytes() == expected


@pytest.mark.parametrize("size", [0, 1, 4096, 1_048_576, 2_500_000])
def test_cut_and_grown_again(stored: Path, shared_mount: Mount, size: int) -> None:
    """A stored file that was cut and grown again has zeros where it was cut."""
    os.truncate(stored, size)
    os.truncate(stored, len(CONTENT))
    expected = CONTENT[:size] + bytes(len(CONTENT) - size)
    assert stored.read_bytes() == expected
    shared_mount.cool()
    assert stored.read_bytes() == expected


def test_truncated_by_open(stored: Path) -> None:
    """Opening with O_TRUNC empties a stored file at once, for older descriptors too."""
    with opened(stored, os.O_RDONLY) as old, opened(stored, os.O_WRONLY | os.O_TRUNC):
        assert os.fstat(old).st_size == 0
        assert os.pread(old, 10, 0) == b""


def test_truncated_by_open_while_mapped_pages_are_written(here: Path) -> None:
    """Bytes that a mapping wrote before an open with O_TRUNC do not come back."""
    size = 1 << 20
    for number in range(5):
        path = here / f"{number}"
        with (
            opened(path, os.O_RDWR | os.O_CREAT) as fd,
            ThreadPoolExecutor(1) as other,
        ):
            os.ftruncate(fd, size)
            with mmap.mmap(fd, size) as mapping:
                mapping[::8192] = b"x" * (size // 8192)  # every other page: a request for each
                other.submit(os.fsync, fd)
                with opened(path, os.O_WRONLY | os.O_TRUNC):
                    pass
        with opened(path, os.O_RDONLY | os.O_DIRECT) as fd:  # asks the daemon, and not the kernel
            assert os.preadv(fd, [aligned(bytes(4096))], 0) == 0


def test_write_far_behind_the_end(here: Path, shared_mount: Mount) -> None:
    """A write behind the end leaves a hole of zeros."""
    with opened(here / "x", os.O_WRONLY | os.O_CREAT) as fd:
        os.pwrite(fd, b"end", 50_000_000)
    shared_mount.cool()
    with opened(here / "x", os.O_RDONLY) as fd:
        assert os.pread(fd, 4096, 25_000_000) == bytes(4096)
        assert os.pread(fd, 100, 49_999_998) == b"\0\0end"


def test_writes_are_seen_at_once(here: Path) -> None:
    """Bytes written by one descriptor are read by another and counted by stat, before any close."""
    with opened(here / "x", os.O_WRONLY | os.O_CREAT) as writer, opened(here / "x", 0) as reader:
        for number in range(1, 20):
            os.write(writer, bytes([number]) * 10_000)
            assert os.pread(reader, 10_000, (number - 1) * 10_000) == bytes([number]) * 10_000
            assert (here / "x").stat().st_size == number * 10_000


@pytest.mark.parametrize("seed", range(3))
def test_random_patches(stored: Path, shared_mount: Mount, seed: int) -> None:
    """Writes and cuts at random places, with commits in between, add up to the right bytes."""
    draw = random.Random(seed)
    expected = bytearray(CONTENT)
    for step in range(60):
        offset, size = draw.randrange(3_500_000), draw.choice([1, 100, 4096, 70_000, 1_500_000])
        if draw.random() < 0.1:
            os.truncate(stored, offset)
            del expected[offset:]
            expected.extend(bytes(offset - len(expected)))
        else:
            patch = draw.randbytes(size)
            with opened(stored, os.O_WRONLY) as fd:
                os.pwrite(fd, patch, offset)
            expected.extend(bytes(max(0, offset - len(expected))))
            expected[offset : offset + size] = patch
        if step % 20 == 10:
            shared_mount.cool()
        if step % 5 == 0:
            assert stored.read_bytes() == expected
    shared_mount.cool()
    assert stored.read_bytes() == expected


def test_file_of_a_petabyte(here: Path) -> None:
    """A file of 10^15 bytes is made, measured, read at its end and removed."""
    path = here / "x"
    path.touch()
    os.truncate(path, 10**15)
    assert path.stat().st_size == 10**15
    with opened(path, os.O_RDWR) as fd:
        assert os.pread(fd, 100, 10**15 - 50) == bytes(50)
        os.pwrite(fd, b"end", 10**15 - 3)
        assert os.pread(fd, 100, 10**15 - 5) == b"\0\0end"
    path.unlink()


def test_stored_petabyte(here: Path, shared_mount: Mount) -> None:
    """A file of 10^15 bytes with one island is committed by its island, not by its length."""
    path = here / "x"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, 10**15)
        os.pwrite(fd, b"island", 5 * 10**14)
    shared_mount.cool()
    with opened(path, os.O_RDONLY) as fd:
        assert os.pread(fd, 8, 5 * 10**14 - 1) == b"\0island\0"
    path.unlink()


@pytest.mark.parametrize("flush", [os.fsync, os.fdatasync], ids=["fsync", "fdatasync"])
def test_flushed_file(here: Path, flush: Callable[[int], None]) -> None:
    """A file can be flushed through a writer and through a reader."""
    with opened(here / "x", os.O_WRONLY | os.O_CREAT) as fd:
        os.write(fd, b"data")
        flush(fd)
    with opened(here / "x", os.O_RDONLY) as fd:
        flush(fd)
    assert (here / "x").read_bytes() == b"data"


def test_flushed_folder(here: Path) -> None:
    """A folder can be flushed."""
    (here / "x").touch()
    with opened(here, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


@pytest.mark.parametrize(
    ("flags", "call", "number"),
    [
        (os.O_RDONLY, lambda fd: os.write(fd, b"x"), errno.EBADF),
        (os.O_WRONLY, lambda fd: os.read(fd, 1), errno.EBADF),
        (os.O_RDONLY, lambda fd: os.ftruncate(fd, 0), errno.EINVAL),
        (os.O_RDWR, lambda fd: os.ftruncate(fd, -1), errno.EINVAL),
    ],
    ids=["write to a reader", "read from a writer", "cut by a reader", "negative size"],
)
def test_refused_calls(
    stored: Path, flags: int, call: Callable[[int], object], number: int
) -> None:
    """A call that the descriptor does not allow fails with its errno and changes nothing."""
    with opened(stored, flags) as fd, pytest.raises(OSError) as failure:  # noqa: PT011
        call(fd)
    assert failure.value.errno == number
    assert stored.stat().st_size == len(CONTENT)
