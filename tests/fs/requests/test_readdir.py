"""Listing directories: entries, full buffers, and names that come and go."""

import pyfuse3
import pytest
from pyfuse3 import FileNameT, ReaddirToken

from modelfs.fs.requests.readdir import READDIR_PAGE
from modelfs.store.index.tables import ROOT, InodeNumber
from tests.support.served_store import (
    ASKED,
    DATA,
    TOKEN,
    TOP,
    Listing,
    Served,
    folder,
    listed,
    lookups,
    named,
    rename,
)


async def test_readdir(served: Served, listing: Listing) -> None:
    """A directory lists its dots and its names with their inodes; names count lookups."""
    inode, inner = await served.written(b"f", DATA), await folder(served, b"d")
    await listed(served, listing)
    assert [(name, at) for name, at, _ in listing.entries] == [
        (b".", ROOT),
        (b"..", ROOT),
        (b"f", inode),
        (b"d", InodeNumber(inner)),
    ]
    assert (lookups(served, inode), lookups(served, InodeNumber(inner))) == (2, 2)
    assert not lookups(served, ROOT)


async def test_readdir_stops_when_the_buffer_is_full(served: Served, listing: Listing) -> None:
    """An entry that does not fit counts no lookup, and the next call lists it."""
    inodes = [await served.written(b"%d" % number) for number in range(5)]
    handle = await served.operations.opendir(TOP, ASKED)
    for room in (1, 3, 0, 2):
        listing.room = room
        start = listing.entries[-1][2] if listing.entries else 0
        await served.operations.readdir(handle, start, TOKEN)
    assert listing.names == [b".", b"..", b"0", b"1", b"2", b"3"]
    assert [lookups(served, inode) for inode in inodes] == [2, 2, 2, 2, 1]


async def test_readdir_of_many(served: Served, listing: Listing) -> None:
    """A listing of several pages has every name once."""
    names = [b"%03d" % number for number in range(2 * READDIR_PAGE + 3)]
    for name in names:
        await served.written(name)
    await listed(served, listing)
    assert listing.names == [b".", b"..", *names]


async def test_readdir_while_names_come_and_go(served: Served, listing: Listing) -> None:
    """A continued listing neither skips nor repeats a name that stayed."""
    stayed = [b"s%d" % number for number in range(10)]
    for name in stayed:
        await served.written(name)
        await served.written(b"gone-" + name)
    handle = await served.operations.opendir(TOP, ASKED)
    start = 0
    for step in range(1000):
        listing.room = 1
        await served.operations.readdir(handle, start, TOKEN)
        if listing.entries[-1][2] == start:
            break
        start = listing.entries[-1][2]
        if step < len(stayed):
            await served.operations.unlink(TOP, named(b"gone-s%d" % step), ASKED)
            await rename(served, b"s%d" % step, b"moving")
            await rename(served, b"moving", b"s%d" % step)
            await served.written(b"new-%d" % step)
    # A renamed file is a new entry: it may be listed twice, and must be listed once.
    assert set(stayed) <= set(listing.names)
    cookies = [cookie for _, _, cookie in listing.entries]
    assert cookies == sorted(set(cookies))


async def test_readdir_of_a_name_renamed_over(served: Served, listing: Listing) -> None:
    """A name that is replaced during a listing stays where it was: listed once, never missing."""
    for name in (b"a", b"b", b"c"):
        await served.written(name)
    handle = await served.operations.opendir(TOP, ASKED)
    listing.room = 4  # the dots, a and b
    await served.operations.readdir(handle, 0, TOKEN)
    new = await served.written(b"tmp")
    await rename(served, b"tmp", b"b")
    await rename(served, b"c", b"c2")
    await rename(served, b"c2", b"c")
    listing.room = 100
    await served.operations.readdir(handle, listing.entries[-1][2], TOKEN)
    assert sorted(listing.names) == [b".", b"..", b"a", b"b", b"c"]
    assert await served.looked_up(b"b") == new


async def test_readdir_of_staged_sizes(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing has the same attributes as getattr, those of staged content included."""
    sizes: dict[bytes, int] = {}

    def reply(
        token: ReaddirToken, name: FileNameT, attr: pyfuse3.EntryAttributes, cookie: int
    ) -> bool:
        sizes[name] = attr.st_size
        return True

    await served.written(b"f", DATA)
    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    handle = await served.operations.opendir(TOP, ASKED)
    await served.operations.readdir(handle, 0, TOKEN)
    assert sizes[b"f"] == len(DATA)
