"""Which files the kernel serves itself, and the numbers that it gets for them."""

import os
from pathlib import Path

import pytest

from modelfs.fs.handles import Handles
from modelfs.fs.host import session_io
from modelfs.fs.requests.passthrough import Passthrough
from modelfs.store.files.attributes import Change
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.kernel_writes import Kernel, path_of, whole_of
from tests.support.run_jobs import ingest_all
from tests.support.stores import Box, content_of, names_in, new_file, noise, stored_file

DATA = noise(10_000)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def handles() -> Handles:
    return Handles()


@pytest.fixture
def passthrough(opened: Store, handles: Handles, kernel: Kernel) -> Passthrough:
    passthrough = Passthrough(opened, handles)
    passthrough._files = kernel  # type: ignore[assignment]
    return passthrough


def write(store: Store, inode: InodeNumber, data: bytes) -> None:
    """Write as the kernel does."""
    with path_of(store, whole_of(store, inode)).open("r+b") as file:
        file.write(data)


def test_all_opens_of_a_file_have_one_number(
    opened: Store, passthrough: Passthrough, kernel: Kernel
) -> None:
    """The registration begins with the first open and ends with the last close."""
    first, second = new_file(opened, b"a"), new_file(opened, b"b")
    numbers = [passthrough.open(first, os.O_RDWR, writable=True)]
    numbers += [passthrough.open(first, os.O_RDONLY, writable=False) for _ in range(2)]
    assert set(numbers) == {1}
    assert passthrough.open(second, os.O_WRONLY, writable=True) == 2
    assert kernel.files[1] == str(path_of(opened, whole_of(opened, first)))
    assert (passthrough.serves(first), whole_of(opened, first).writing) == (True, 1)
    passthrough.close(first, writable=True)
    passthrough.close(first, writable=False)
    assert set(kernel.files) == {1, 2}
    passthrough.close(first, writable=False)
    passthrough.close(second, writable=True)
    assert (kernel.files, passthrough.serves(first)) == ({}, False)


def test_a_file_that_is_open_in_the_usual_way(
    opened: Store, passthrough: Passthrough, handles: Handles
) -> None:
    """The first open decides for all that come before its close."""
    inode = new_file(opened, b"f")
    handle = handles.open(inode, writable=False)
    assert passthrough.open(inode, os.O_RDWR, writable=True) == 0
    handles.close(handle)
    assert passthrough.open(inode, os.O_RDWR, writable=True) > 0
    passthrough.close(inode, writable=True)


def test_a_stored_file(opened: Store, passthrough: Passthrough, kernel: Kernel) -> None:
    """A file whose content is in chunks has no number, unless it is emptied."""
    inode = stored_file(opened, b"f", DATA)
    for writable, flags in ((False, os.O_RDONLY), (True, os.O_RDWR)):
        assert passthrough.open(inode, flags, writable=writable) == 0
    assert opened.staging.find(inode) is None
    opened.writes.truncate(inode, 0)
    assert passthrough.open(inode, os.O_WRONLY, writable=True) == 1
    write(opened, inode, b"new")
    passthrough.close(inode, writable=True)
    assert (content_of(opened, inode), kernel.files) == (b"new", {})


def test_a_file_that_is_staged_otherwise(opened: Store, passthrough: Passthrough) -> None:
    """Bytes that came through the daemon stay where they are."""
    inode = new_file(opened, b"f", DATA)
    assert passthrough.open(inode, os.O_RDWR, writable=True) == 0
    assert content_of(opened, inode) == DATA


def test_a_copy(opened: Store, passthrough: Passthrough) -> None:
    """A file that programs read is passed on after ingest, and written by way of the same file."""
    inode = new_file(opened, b"f")
    passthrough.open(inode, os.O_RDWR, writable=True)
    write(opened, inode, DATA)
    passthrough.close(inode, writable=True)
    reading = passthrough.open(inode, os.O_RDONLY, writable=False)
    ingest_all(opened)
    assert opened.staging.find(inode) is None
    assert passthrough.open(inode, os.O_RDONLY, writable=False) == reading
    assert passthrough.open(inode, os.O_RDWR, writable=True) == reading
    write(opened, inode, b"edited")
    assert content_of(opened, inode) == b"edited" + DATA[6:]
    for writable in (True, False, False):
        passthrough.close(inode, writable=writable)
    ingest_all(opened)
    assert content_of(opened, inode) == b"edited" + DATA[6:]


def test_a_copy_between_two_readers(opened: Store, passthrough: Passthrough) -> None:
    """The copy serves the next reader until it is dropped, and no writer."""
    inode = new_file(opened, b"f")
    passthrough.open(inode, os.O_RDWR, writable=True)
    write(opened, inode, DATA)
    passthrough.close(inode, writable=True)
    passthrough.open(inode, os.O_RDONLY, writable=False)
    ingest_all(opened)
    passthrough.close(inode, writable=False)
    assert passthrough.open(inode, os.O_RDONLY, writable=False) == 0  # the disk may lack its bytes
    assert whole_of(opened, inode).prove()
    assert passthrough.open(inode, os.O_RDONLY, writable=False) > 0
    passthrough.close(inode, writable=False)
    assert passthrough.open(inode, os.O_RDWR, writable=True) == 0
    assert opened.staging.wholes.copies.find(inode) is None


def test_a_kernel_that_refuses(
    opened: Store, passthrough: Passthrough, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is then written by way of the daemon."""
    kernel.refuses = True
    inode = new_file(opened, b"f")
    assert passthrough.open(inode, os.O_RDWR, writable=True) == 0
    assert "a file is not passed through: [Errno 23]" in caplog.text
    caplog.clear()
    opened.writes.write(inode, 0, DATA)
    assert content_of(opened, inode) == DATA
    ingest_all(opened)
    assert content_of(opened, inode) == DATA


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC, os.O_DIRECT])
def test_unsuited_flags(opened: Store, passthrough: Passthrough, flag: int) -> None:
    """A first open with these flags is served by the daemon, of new files and staged ones."""
    for name in (b"new", b"staged"):
        inode = new_file(opened, name)
        if name == b"staged":
            passthrough.open(inode, os.O_RDWR, writable=True)
            passthrough.close(inode, writable=True)
        assert passthrough.open(inode, os.O_RDWR | flag, writable=True) == 0


@pytest.mark.parametrize("reason", ["mode", "attribute", "reserve", "descriptors", "lost"])
def test_unsuited_files(
    opened: Store, passthrough: Passthrough, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """Files with rights, and all files while room or descriptors are short, are not passed."""
    inode = new_file(opened, b"f")
    match reason:
        case "mode":
            opened.attributes.set(inode, Change(mode=0o4755))
        case "attribute":
            opened.attributes.put(inode, b"security.capability", b"value")
        case "reserve":
            monkeypatch.setattr(opened.space, "writable_bytes", lambda: 1)
        case "descriptors":
            opened.staging.kept_max = -1
        case "lost":
            staged = opened.contents.staged(inode)
            opened.staging.begin_whole(staged)
            opened.writes.write(inode, 0, DATA)
            assert opened.staging.wholes.prove_final(staged)
            whole_of(opened, inode).lose(staged.ranges())
    assert passthrough.open(inode, os.O_RDWR, writable=True) == 0
    if reason == "lost":
        opened.writes.truncate(inode, 0)


def test_a_store_with_a_limit(folder: Path, handles: Handles, kernel: Kernel) -> None:
    """The kernel would pass the limit."""
    box = Box(folder, limit=1 << 30)
    passthrough = Passthrough(box.store, handles)
    passthrough._files = kernel  # type: ignore[assignment]
    assert passthrough.open(new_file(box.store, b"f"), os.O_RDWR, writable=True) == 0
    box.store.close()


def test_without_the_kernel(
    opened: Store,
    handles: Handles,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A session without the capability, or without a device, passes nothing."""
    passthrough = Passthrough(opened, handles)
    passthrough.begin()
    monkeypatch.setattr(session_io, "granted", lambda: session_io.PASSTHROUGH)
    monkeypatch.setattr(session_io, "device", lambda: os.open("/dev/null", os.O_RDWR))
    passthrough.begin()
    assert "--passthrough has no effect: Inappropriate ioctl for device" in caplog.text
    caplog.clear()
    assert passthrough.open(new_file(opened, b"f"), os.O_RDWR, writable=True) == 0


def test_writers_hold_the_reserve(opened: Store, passthrough: Passthrough) -> None:
    """From the first open for writing to the last close; readers hold nothing."""
    guard, inode = opened.space.guard, new_file(opened, b"a")
    passthrough.open(inode, os.O_RDWR, writable=True)
    assert guard.bytes > 0
    passthrough.open(inode, os.O_RDONLY, writable=False)
    passthrough.close(inode, writable=True)
    guard.release()
    assert guard.bytes == 0
    passthrough.open(inode, os.O_RDWR, writable=True)
    guard.release()
    assert guard.bytes > 0
    passthrough.close(inode, writable=False)
    passthrough.close(inode, writable=True)
    guard.release()
    assert guard.bytes == 0


def test_without_room_for_the_reserve(
    opened: Store, passthrough: Passthrough, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first open for writing is not passed through; one beside others has their number."""
    inode, other = new_file(opened, b"a"), new_file(opened, b"b")
    with monkeypatch.context() as patch:
        patch.setattr(opened.space.guard, "add_writer", lambda size: False)
        assert passthrough.open(other, os.O_RDWR, writable=True) == 0
        assert names_in(opened.staging.directory.path) == set()
    number = passthrough.open(inode, os.O_RDWR, writable=True)
    with monkeypatch.context() as patch:
        patch.setattr(opened.space.guard, "add_writer", lambda size: False)
        assert passthrough.open(inode, os.O_RDWR, writable=True) == number > 0
    passthrough.close(inode, writable=True)
    passthrough.close(inode, writable=True)
    opened.space.guard.release()
    assert opened.space.guard.bytes == 0
