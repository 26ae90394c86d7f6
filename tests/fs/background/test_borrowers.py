"""The files that borrow: bytes that were stored before, and bytes that take room."""

from collections.abc import Callable

import pytest

from modelfs.fs.background.borrowers import StoredFiles, Verdict, verdict_on
from modelfs.store.index.counters import NEXT_CHUNK
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.tables import ROOT, ChunkId, InodeNumber
from modelfs.store.store import Store
from tests.support.run_jobs import ingest_all, ingest_file
from tests.support.stores import CHUNK, new_file, noise, stored_file

FIRST, OTHER = noise(3 * CHUNK), noise(2 * CHUNK, 1)
TAIL = 100


async def call(function: Callable[[], Verdict]) -> Verdict:
    return function()


@pytest.fixture
def files(opened: Store) -> StoredFiles:
    """The files of a store that has one of three chunks."""
    stored_file(opened, b"first", FIRST)
    return StoredFiles(opened, call)


def judged(store: Store, inode: InodeNumber, *ranges: tuple[int, int]) -> tuple[int, int, int]:
    """Return the bytes of a file that are copied, new, and incomplete; it borrowed first."""
    verdict = verdict_on(store, inode, RangeSet(ranges), ChunkId(4))
    return verdict.copied.size, verdict.new, verdict.incomplete


def test_a_copy(opened: Store, files: StoredFiles) -> None:
    """Chunks that were there are copied; the piece at the end is incomplete until it is one."""
    assert files.next_chunk() == 4
    copy = stored_file(opened, b"copy", FIRST[: 2 * CHUNK + TAIL])
    assert judged(opened, copy, (0, 2 * CHUNK + TAIL)) == (2 * CHUNK, 0, TAIL)
    assert judged(opened, copy, (CHUNK + 1, CHUNK + 9)) == (8, 0, 0)
    opened.writes.write(copy, 2 * CHUNK + TAIL, FIRST[2 * CHUNK + TAIL :])
    ingest_all(opened)
    assert judged(opened, copy, (2 * CHUNK, 2 * CHUNK + TAIL)) == (TAIL, 0, 0)


def test_new_content(opened: Store, files: StoredFiles) -> None:
    """A whole chunk, or one that another follows, is new; of other bytes nothing is known."""
    new = stored_file(opened, b"new", OTHER[: CHUNK + TAIL])
    assert judged(opened, new, (0, CHUNK + TAIL)) == (0, CHUNK, TAIL)
    assert judged(opened, new, (0, 2 * CHUNK)) == (0, CHUNK, TAIL)
    mixed = stored_file(opened, b"mixed", FIRST[:CHUNK] + OTHER[CHUNK:])
    assert judged(opened, mixed, (0, 2 * CHUNK)) == (CHUNK, CHUNK, 0)


def test_pieces_in_holes(opened: Store, files: StoredFiles) -> None:
    """Each of them may be the end of a copy."""
    inode = new_file(opened, b"pieces")
    pieces = [(at, at + TAIL) for at in range(0, 8 * CHUNK, 2 * CHUNK)]
    for number, (start, _) in enumerate(pieces):
        opened.writes.write(inode, start, noise(TAIL, number))
    ingest_file(opened, inode)
    assert judged(opened, inode, *pieces) == (0, 0, len(pieces) * TAIL)


def test_a_file_with_the_same_bytes_twice(opened: Store, files: StoredFiles) -> None:
    """Two uses of a chunk in one file are no copies: the chunk is new."""
    twin = stored_file(opened, b"twin", OTHER[:CHUNK] * 2)
    assert judged(opened, twin, (0, 2 * CHUNK)) == (0, 2 * CHUNK, 0)


def test_two_files_of_one_loan(opened: Store, files: StoredFiles) -> None:
    """Two new files with the same content are no copies of each other."""
    inodes = [new_file(opened, name, OTHER) for name in (b"one", b"two")]
    ingest_all(opened)
    for inode in inodes:
        assert judged(opened, inode, (0, 2 * CHUNK)) == (0, 2 * CHUNK, 0)


async def test_the_state_of_a_file(opened: Store, files: StoredFiles) -> None:
    """Staged bytes are not in chunks, and a file is empty while it has holes only."""
    inode = new_file(opened, b"new")
    assert files.is_empty(inode)
    opened.writes.truncate(inode, 9 * CHUNK)
    assert files.is_empty(inode)
    opened.writes.write(inode, CHUNK, OTHER)
    assert not files.is_empty(inode)
    assert files.staged(inode) == RangeSet([(CHUNK, 3 * CHUNK)])
    before = files.next_chunk()
    ingest_all(opened)
    assert files.staged(inode) == RangeSet()
    assert not files.is_empty(inode)
    assert files.next_chunk() == before + 2 == opened.counters.get(NEXT_CHUNK)
    verdict = await files.verdict_on(inode, RangeSet([(0, 9 * CHUNK)]), before)
    assert verdict == Verdict(RangeSet(), 2 * CHUNK, 0)
    opened.writes.truncate(inode, 0)
    assert files.is_empty(inode)
    assert files.chunk_size == CHUNK
    assert not files.is_empty(opened.namespace.lookup(ROOT, b"first"))
