"""Clones, compared with copies of the bytes, beside ingest, and over a crash."""

from random import Random
from typing import Final

import pytest

from modelfs.errors import CorruptIndex
from modelfs.store.disk.calls import drive
from modelfs.store.files import map_edits
from modelfs.store.index.tables import ROOT, InodeNumber, Table, number_key
from modelfs.store.store import Store
from tests.support.file_maps import EDGES, ByteModel, cut_into_bytes, data_of
from tests.support.run_jobs import drain, ingest_all, ingest_file
from tests.support.stores import (
    CHUNK,
    Box,
    content_of,
    durable,
    model_of,
    new_file,
    noise,
    pending_files,
    stored_file,
)

DATA: Final = noise(6 * CHUNK)
MODEL: Final = model_of(noise(5000, 1), noise(300, 2), noise(9000, 3))


def step(store: Store, source: InodeNumber, start: int, stop: int, to: InodeNumber, at: int) -> int:
    """Clone one slice."""
    return drive(store.clones.clone(source, start, stop, to, at), lambda _: None)


def clone(
    store: Store, source: InodeNumber, start: int, stop: int, to: InodeNumber, at: int
) -> int:
    """Clone slices up to the first staged byte, and return the number of bytes."""
    first, stop = start, min(stop, store.contents.node(source).size)
    while start < stop and (size := step(store, source, start, stop, to, at + start - first)):
        start += size
    return start - first


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("seed", range(6))
def test_cloned_ranges(box: Box, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone has the bytes and the holes of its source, up to the first staged one."""
    monkeypatch.setattr(map_edits, "EDIT_SLICE", 2)
    random = Random(seed)
    inodes = [new_file(box.store, name) for name in (b"a", b"b")]
    models = [ByteModel(), ByteModel()]
    for _ in range(100):
        store, offset, other = box.store, random.choice(EDGES), random.choice(EDGES)
        which = random.randrange(2)
        inode, model = inodes[which], models[which]
        match random.randrange(12):
            case 0 | 1:
                data = noise(random.choice((1, 700, 2 * CHUNK)), offset)
                store.writes.write(inode, offset, data)
                model.write(offset, data)
            case 2:
                store.writes.truncate(inode, offset)
                model.truncate(offset)
            case 3:
                drain(store.edits.punch(inode, offset, offset + other))
                model.punch(offset, offset + other)
            case 4 | 5 | 6:
                source = random.randrange(2)
                size = min(other, abs(offset - other)) if source == which else other
                copied = clone(store, inodes[source], other, other + size, inode, offset)
                model.copy(models[source], other, copied, offset)
            case 7 | 8:
                ingest_file(store, inode)
            case 9:
                durable(store, inode)
            case _:
                box.reopen()
        for inode, model in zip(inodes, models, strict=True):
            assert content_of(box.store, inode) == model.content
            assert data_of(box.store, inode) == model.data
    ingest_all(box.store)
    for inode, model in zip(inodes, models, strict=True):
        assert content_of(box.store, inode) == model.content
    assert pending_files(box.store) == []


def test_a_copy_of_a_stored_model(opened: Store) -> None:
    """A clone of a whole file adds no chunk, and after its pass it has the same tensors."""
    source, target = stored_file(opened, b"a", MODEL), new_file(opened, b"b")
    chunks = [*opened.index.keys(Table.CHUNKS)]
    assert clone(opened, source, 0, len(MODEL), target, 0) == len(MODEL)
    assert pending_files(opened) == [target]
    ingest_all(opened)
    assert [*opened.index.keys(Table.CHUNKS)] == chunks
    assert content_of(opened, target) == MODEL
    node, copy = opened.inodes.get(source), opened.inodes.get(target)
    assert (copy.format, copy.tensor_rows, copy.mapped) == (
        node.format,
        node.tensor_rows,
        node.mapped,
    )
    opened.namespace.unlink(ROOT, b"a")
    drain(opened.orphans.remove(source))
    assert content_of(opened, target) == MODEL


def test_slices(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice has few extents of the source, and replaces few of the target."""
    source, target = stored_file(opened, b"a", DATA), stored_file(opened, b"b", DATA[::-1])
    cut_into_bytes(opened, source, 0, 1000)
    cut_into_bytes(opened, target, 500, 1000)
    sizes: list[int] = []
    start = 0
    while start < len(DATA):
        sizes.append(step(opened, source, start, len(DATA), target, start))
        start += sizes[-1]
    assert sizes[:10] == [100] * 10
    assert content_of(opened, target) == DATA
    monkeypatch.setattr(map_edits, "EDIT_SLICE", 1)
    assert step(opened, source, 5 * CHUNK, 6 * CHUNK, target, 10) == 1


def test_staged_bytes_end_a_clone(opened: Store) -> None:
    """A staged byte is not cloned, and one behind the end neither."""
    source, target = stored_file(opened, b"a", DATA), new_file(opened, b"b")
    opened.writes.write(source, 5000, b"staged")
    assert clone(opened, source, 100, len(DATA), target, 0) == 4900
    assert opened.clones.first_staged(source, 100, len(DATA)) == (5000, 5006)
    assert step(opened, source, 5000, 6000, target, 4900) == 0
    assert clone(opened, source, 5006, 10**15, target, 4906) == len(DATA) - 5006
    assert step(opened, source, len(DATA), len(DATA) + 1, target, 0) == 0
    assert opened.clones.first_staged(source, 5006, 9000) == (9000, 9000)
    assert opened.clones.first_staged(target, 0, 100) == (100, 100)
    assert content_of(opened, target) == DATA[100:5000] + bytes(6) + DATA[5006:]


def test_an_earlier_truncation(opened: Store) -> None:
    """The extents of a target that was cut off are removed first, in slices."""
    source, target = stored_file(opened, b"a", DATA), stored_file(opened, b"b", DATA[::-1])
    cut_into_bytes(opened, target, 0, 350)
    opened.writes.truncate(target, 0)
    waits: list[None] = []
    assert drive(opened.clones.clone(source, 0, 100, target, 50), waits.append) == 100
    assert len(waits) == 3
    assert content_of(opened, target) == bytes(50) + DATA[:100]


def test_a_chunk_without_a_record(opened: Store) -> None:
    """A clone of an extent whose chunk has no record fails, and changes nothing."""
    source, target = stored_file(opened, b"a", DATA), new_file(opened, b"b", b"before")
    first = next(opened.maps.within(source, 0, 1))
    record = opened.chunks.record(first.chunk)
    with opened.index.change():
        opened.index.delete(Table.CHUNKS, number_key(first.chunk))
    with pytest.raises(CorruptIndex, match="has no record"):
        step(opened, source, 0, len(DATA), target, 0)
    assert content_of(opened, target) == b"before"
    with opened.index.change():
        opened.index.put(Table.CHUNKS, number_key(first.chunk), record.to_bytes())
    assert clone(opened, source, 0, len(DATA), target, 0) == len(DATA)


# -- a crash


def test_a_crash_after_a_clone(box: Box) -> None:
    """A clone in an empty file is there after a flush and a commit, and not before."""
    source, target = stored_file(box.store, b"a", DATA), new_file(box.store, b"b")
    clone(box.store, source, 0, len(DATA), target, 0)
    box.store.commit()
    assert content_of(box.crash(), target) == b""
    ingest_all(box.store)
    assert content_of(box.store, target) == b""
    clone(box.store, source, 0, len(DATA), target, 0)
    durable(box.store, target)
    assert content_of(box.crash(), target) == DATA
    assert pending_files(box.store) == [target]


def test_a_crash_after_a_clone_over_staged_bytes(box: Box) -> None:
    """Durable staged bytes under a clone come back in a crash, until a flush."""
    source, target = stored_file(box.store, b"a", DATA), new_file(box.store, b"b", b"x" * 5000)
    durable(box.store, target)
    clone(box.store, source, 0, 4000, target, 500)
    box.store.commit()
    assert content_of(box.crash(), target) == b"x" * 5000
    clone(box.store, source, 0, 4000, target, 500)
    durable(box.store, target)
    expected = b"x" * 500 + DATA[:4000] + b"x" * 500
    assert content_of(box.crash(), target) == expected
    ingest_all(box.store)
    assert content_of(box.store, target) == expected
