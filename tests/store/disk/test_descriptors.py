"""Open files: the cache of descriptors, and reads and writes that are never short."""

import errno
import os
import resource
from contextlib import suppress
from pathlib import Path

import pytest

from modelfs.store.disk.descriptors import (
    IOV_MAX,
    LIMIT_MAX,
    Descriptor,
    Descriptors,
    raise_limit,
    read_at,
    read_into,
    share_of_limit,
    sync,
    write_at,
)
from modelfs.store.disk.directory import Directory
from tests.support.connections import open_files
from tests.support.interruptions import at_point, interrupt
from tests.support.stores import noise


@pytest.fixture
def file(tmp_path: Path) -> Descriptor:
    """An open file of 10,000 bytes."""
    (tmp_path / "f").write_bytes(noise(10_000))
    return Descriptor(Directory(tmp_path), "f", os.O_RDWR)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# -- reads and writes


def test_short_reads_are_continued(file: Descriptor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short read of the kernel is continued until the request is complete or the file ends."""
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda fd, size, at: pread(fd, min(size, 700), at))
    monkeypatch.setattr(os, "preadv", lambda fd, into, at: preadv(fd, [into[0][:700]], at))
    assert read_at(file, 100, 5000) == noise(10_000)[100:5100]
    assert read_at(file, 9000, 5000) == noise(10_000)[9000:]
    into = bytearray(5000)
    assert read_into(file, 100, memoryview(into)) == 5000
    assert into == noise(10_000)[100:5100]
    assert read_into(file, 9000, memoryview(into)) == 1000
    assert into[:1000] == noise(10_000)[9000:]


@pytest.mark.parametrize("most", [1, 3, 5, 10_000])
def test_short_writes_are_continued(
    file: Descriptor, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """A write may end anywhere: inside a buffer, at its end, and before an empty one."""
    pwritev = os.pwritev

    def few(fd: int, buffers: list[memoryview], offset: int) -> int:
        return pwritev(fd, [b"".join(buffers)[:most]], offset)

    monkeypatch.setattr(os, "pwritev", few)
    write_at(file, 7, [b"abc", b"", b"de", b"f", b""])
    assert read_at(file, 0, 20) == noise(10_000)[:7] + b"abcdef" + noise(10_000)[13:20]


def test_more_buffers_than_one_call_has(file: Descriptor) -> None:
    """Any number of buffers is written, although pwritev(2) accepts `IOV_MAX` of them."""
    buffers = [b"%04d" % number for number in range(IOV_MAX + 2)]
    write_at(file, 0, buffers)
    assert read_at(file, 0, 4 * len(buffers)) == b"".join(buffers)


def test_errors_name_their_file(file: Descriptor, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of a descriptor carries the path of its file, which the kernel does not know."""

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for name in ("pread", "preadv", "pwritev", "fdatasync"):
        monkeypatch.setattr(os, name, fails)
    calls = (
        lambda: read_at(file, 0, 1),
        lambda: read_into(file, 0, memoryview(bytearray(1))),
        lambda: write_at(file, 0, [b"x"]),
        lambda: sync(file),
    )
    for call in calls:
        with pytest.raises(OSError, match="error") as caught:
            call()
        assert caught.value.filename == str(file.path)


# -- the cache


@pytest.fixture
def files(tmp_path: Path) -> Descriptors:
    """A cache of two of the files a, b and c."""
    for name in "abc":
        (tmp_path / name).write_text(name)
    return Descriptors(Directory(tmp_path), os.O_RDONLY, capacity=2)


def test_the_least_recently_used_file_is_closed(files: Descriptors) -> None:
    """A full cache closes the file that was not used for longest."""
    first, second = files.get("a").fd, files.get("b").fd
    assert files.get("a").fd == first
    files.get("c")
    assert is_open(first)
    assert not is_open(second)


def test_a_file_stays_open_for_its_users(files: Descriptors) -> None:
    """A descriptor that someone keeps is open after it left the cache, and closed with it."""
    kept = files.get("a")
    number = kept.fd
    files.clear()
    assert read_at(kept, 0, 9) == b"a"
    del kept
    assert not is_open(number)


def test_a_forgotten_name_is_opened_again(files: Descriptors, tmp_path: Path) -> None:
    """After `forget`, a replaced file is the new one."""
    old = files.get("a")
    (tmp_path / "new").write_text("new")
    (tmp_path / "new").rename(tmp_path / "a")
    assert files.get("a") is old
    files.forget("a")
    assert read_at(files.get("a"), 0, 9) == b"new"


def test_threads_that_open_the_same_file_share_it(
    files: Descriptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two threads that open a file at the same time, both get the first one's descriptor."""
    real = os.open
    first: list[Descriptor] = []

    def overtaken(*args: object, **kwargs: object) -> int:
        monkeypatch.setattr(os, "open", real)
        first.append(files.get("a"))
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", overtaken)
    assert files.get("a") is first[0]


def test_an_interrupted_open_loses_no_descriptor(tmp_path: Path) -> None:
    """Ctrl-C at any point of it leaves no file open."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    folder = Directory(tmp_path)
    for point in range(1000):
        with suppress(KeyboardInterrupt), at_point(point, interrupt, "descriptors.py") as places:
            Descriptor(folder, "file", os.O_RDONLY)
        assert [fd for fd in open_files() if fd == str(path)] == [], places
        if not places:
            break
    assert 5 < point < 1000


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE])
def test_a_full_table_of_files_is_emptied(
    files: Descriptors, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """If the process has no descriptor left, the cache closes its files and opens once more."""
    cached = files.get("a").fd
    real = os.open

    def full(*args: object, **kwargs: object) -> int:
        if is_open(cached):
            raise OSError(error, os.strerror(error))
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", full)
    assert read_at(files.get("b"), 0, 9) == b"b"


@pytest.mark.parametrize(("hard", "raised"), [(resource.RLIM_INFINITY, LIMIT_MAX), (5000, 5000)])
def test_the_limit_is_raised(monkeypatch: pytest.MonkeyPatch, hard: int, raised: int) -> None:
    """A process gets as many files as it may, and a cache has a share of them."""
    limits = [(1024, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    assert share_of_limit(8) == 128
    raise_limit()
    raise_limit()
    assert limits[1:] == [(raised, hard)]
    assert share_of_limit(4) == raised // 4
