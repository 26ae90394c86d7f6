"""The layout of a file, and the users of its chunks."""

from modelfs.jobs.inspect.file import state_of
from modelfs.jobs.inspect.layout import HOLE, STAGED, parts_of, records_of
from modelfs.jobs.inspect.sharers import User, sharers_of
from modelfs.store.store import Store
from tests.support.stores import CHUNK, model_of, noise, stored_file


def test_every_byte_is_in_one_part(opened: Store) -> None:
    """Tensors come in file order, then the rest; each byte counts once, by its form."""
    content = model_of(noise(CHUNK), noise(2 * CHUNK, 1))
    inode = stored_file(opened, b"model", content)
    opened.writes.write(inode, len(content) - 100, b"x" * 60)
    opened.writes.truncate(inode, len(content) - 20)
    opened.writes.truncate(inode, len(content) + 7)
    first, second, rest = parts_of(opened, state_of(opened, inode))
    assert [part.tensor and part.tensor.name for part in (first, second, rest)] == [
        "t0",
        "t1",
        None,
    ]
    assert first.forms == {"plain": CHUNK}
    assert second.forms == {"plain": 2 * CHUNK - 80, STAGED: 60, HOLE: 20}
    assert rest.forms == {"zstd": len(content) - 3 * CHUNK, HOLE: 7}


def test_a_part_has_ranges_of_chunks(opened: Store) -> None:
    """Of each chunk, a part has the ranges that its extents have, and the chunk's record."""
    content = model_of(noise(3 * CHUNK))
    inode = stored_file(opened, b"model", content)
    parts = parts_of(opened, state_of(opened, inode))
    tensor = parts[0]
    assert [list(each.ranges) for each in tensor.chunks.values()] == [[(0, CHUNK)]] * 3
    for chunk, record in records_of(parts).items():
        assert record == opened.chunks.find(chunk)


def test_sharers_are_tensors_of_other_files(opened: Store) -> None:
    """Another file's tensor with the same chunk is its user, and keeps it."""
    tensor = noise(CHUNK)
    other = stored_file(opened, b"other", model_of(noise(500, 1), tensor))
    inode = stored_file(opened, b"model", model_of(tensor))
    parts = parts_of(opened, state_of(opened, inode))
    sharers = sharers_of(opened, inode, parts)
    start = opened.contents.node(other).size - CHUNK
    assert sharers.parts[0].bytes == {User(other, start, "t1"): CHUNK}
    assert sharers.files.bytes == {User(other, 0, None): CHUNK}
    assert sharers.needed == parts[0].chunks.keys()
