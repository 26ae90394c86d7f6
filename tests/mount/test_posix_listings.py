"""Listings of folders on a mount: whole, typed, and steady while names come and go."""

import os
import stat
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.support.syscalls import directory_stream

pytestmark = pytest.mark.mount


def test_dots_are_listed(here: Path) -> None:
    """A listing has `.` and `..`, once each."""
    (here / "x").touch()
    with directory_stream(here) as stream:
        assert sorted(stream) == [b".", b"..", b"x"]


def test_types_in_listings(here: Path) -> None:
    """A listing has the types of its entries, and the same inodes as stat."""
    (here / "file").touch()
    (here / "folder").mkdir()
    (here / "link").symlink_to("file")
    os.mkfifo(here / "fifo")
    with os.scandir(here) as entries:
        for entry in entries:
            node = (here / entry.name).lstat()
            assert entry.inode() == node.st_ino
            assert entry.is_file(follow_symlinks=False) == stat.S_ISREG(node.st_mode)
            assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(node.st_mode)
            assert entry.is_symlink() == stat.S_ISLNK(node.st_mode)


def test_long_listing(here: Path) -> None:
    """A folder of two thousand entries lists each of them once."""
    names = {f"a rather long name of the entry with number {n}" for n in range(2000)}
    for name in names:
        (here / name).touch()
    assert Counter(os.listdir(here)) == Counter(names)


def test_listing_under_change(here: Path) -> None:
    """While names come and go a listing has each name at most once and skips none that stays."""
    staying = {f"stay-{n}" for n in range(300)}
    for name in staying:
        (here / name).touch()
    stop = threading.Event()

    def churn(writer: int) -> None:
        number = 0
        while not stop.is_set():
            (here / f"come-{writer}-{number}").touch()
            if number >= 50:
                (here / f"come-{writer}-{number - 50}").unlink()
            number += 1

    writers = [threading.Thread(target=churn, args=(n,)) for n in range(2)]
    for thread in writers:
        thread.start()
    try:
        for _ in range(30):
            listed = Counter(os.listdir(here))
            assert staying <= listed.keys()
            assert listed.most_common(1)[0][1] == 1
    finally:
        stop.set()
        for thread in writers:
            thread.join()


def test_emptied_while_listed(here: Path) -> None:
    """Removing every name as it is listed empties a folder in one pass."""
    for number in range(1000):
        (here / f"{number}").touch()
    with directory_stream(here) as stream:
        for name in stream:
            if name not in {b".", b".."}:
                (here / name.decode()).unlink()
    here.rmdir()
    here.mkdir()


def test_positions_in_a_listing(here: Path) -> None:
    """A position taken in a listing leads back to the same rest, after removals too."""
    for number in range(500):
        (here / f"{number}").touch()
    with directory_stream(here) as stream:
        names = iter(stream)
        before = [next(names) for _ in range(200)]
        position = stream.tell()
        rest = list(stream)
        for name in set(before) - {b".", b".."}:
            (here / name.decode()).unlink()
        stream.seek(position)
        assert list(stream) == rest
    assert len(before) + len(rest) == 502


def test_renamed_while_listed(here: Path) -> None:
    """Renaming every name as it is listed comes to an end; the next listing has them all."""
    for number in range(300):
        (here / f"{number}").touch()
    seen = 0
    with directory_stream(here) as stream:
        for name in stream:
            if name not in (b".", b".."):
                (here / os.fsdecode(name)).rename(here / f"renamed-{seen}")
                seen += 1
                assert seen <= 600
        stream.seek(0)
        assert len(list(stream)) == 302
