"""The slow part of ingest: which pieces are stored, and which stay in their chunks."""

import pytest

from modelfs.jobs.drive import run
from modelfs.jobs.ingest.job import Ingest
from modelfs.store.disk.reserve import as_chunks
from modelfs.store.disk.space import Space
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.ingest_regions import shifted_copy
from tests.support.run_jobs import collect, ingest_all
from tests.support.stores import (
    CHUNK,
    content_of,
    model_of,
    new_file,
    noise,
    pack_sizes,
    pending_files,
    stored_file,
)

MODEL = model_of(noise(4 * CHUNK, 1), noise(5 * CHUNK, 2))


def cut(store: Store, inode: InodeNumber, size: int) -> None:
    store.writes.truncate(inode, size)
    ingest_all(store)


def extents(store: Store, inode: InodeNumber) -> list[tuple[int, int]]:
    """Return the chunk and the length of each extent."""
    found = store.maps.overlapping(inode, 0, 1 << 40)
    return [(extent.chunk, extent.length) for extent in found]


@pytest.mark.parametrize("size", [len(MODEL) - 1, 6 * CHUNK + 5, 4 * CHUNK, 5])
def test_a_copy_that_is_cut_stores_nothing(opened: Store, size: int) -> None:
    """A model that was cut is no model, but its chunks are those of the whole one."""
    whole = stored_file(opened, b"whole", MODEL)
    copy = stored_file(opened, b"copy", MODEL)
    before = pack_sizes(opened)
    cut(opened, copy, size)
    assert pack_sizes(opened) == before
    assert {chunk for chunk, _ in extents(opened, copy)} <= {
        chunk for chunk, _ in extents(opened, whole)
    }
    assert content_of(opened, copy) == MODEL[:size]
    assert content_of(opened, whole) == MODEL


def test_a_model_that_is_cut_keeps_the_chunks_that_it_needs(opened: Store) -> None:
    """Without a copy, too, its chunks stay: only those behind the cut are garbage."""
    model = stored_file(opened, b"model", MODEL)
    before = extents(opened, model)
    cut(opened, model, len(MODEL) - CHUNK)
    assert extents(opened, model) == before[:-1]
    assert content_of(opened, model) == MODEL[:-CHUNK]


def test_a_small_rest_of_a_chunk_is_stored_again(opened: Store) -> None:
    """A file that is the only one to use a chunk, and little of it, does not hold all of it."""
    model = stored_file(opened, b"model", MODEL)
    size = len(MODEL) - 9 * CHUNK + CHUNK // 8
    cut(opened, model, size)
    collect(opened)
    forms = opened.inventory.statistics().forms.values()
    assert sum(form.raw_bytes for form in forms) == size < CHUNK
    assert content_of(opened, model) == MODEL[:size]


def test_an_end_that_comes_back_is_shared_again(opened: Store) -> None:
    """A model that was cut and gets its end again has the chunks that it had."""
    model = stored_file(opened, b"model", MODEL)
    before = extents(opened, model)
    cut(opened, model, 6 * CHUNK)
    opened.writes.write(model, 6 * CHUNK, MODEL[6 * CHUNK :])
    run(Ingest(opened).ingest([model]), opened)
    assert extents(opened, model) == before
    assert content_of(opened, model) == MODEL


def test_without_room_mapped_bytes_stay_as_they_are(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room that staged bytes will need is not used to cut others again; that is done later."""
    inode = shifted_copy(opened, MODEL)
    before = extents(opened, inode)
    staged = new_file(opened, b"staged", noise(40 * CHUNK, 9))
    room = as_chunks(40 * CHUNK) + as_chunks(opened.packs.segment_size)
    with monkeypatch.context() as patch:
        patch.setattr(Space, "working_bytes", room)
        assert run(Ingest(opened).ingest([inode]), opened) == {inode}
        opened.commit()
        assert run(Ingest(opened).ingest([inode]), opened) == {inode}
        assert not opened.index.dirty
    assert extents(opened, inode) == before
    assert pending_files(opened) == [inode, staged]
    assert content_of(opened, inode) == MODEL
    assert run(Ingest(opened).ingest([inode]), opened) == set()
    assert pending_files(opened) == [staged]
    assert [size for _, size in extents(opened, inode)] != [size for _, size in before]
    assert content_of(opened, inode) == MODEL


def test_without_room_equal_chunks_are_shared(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is cut again in a full store, too, if all of its pieces are stored already."""
    twin = stored_file(opened, b"twin", MODEL)
    inode = shifted_copy(opened, MODEL)
    with monkeypatch.context() as patch:
        patch.setattr(Space, "working_bytes", 0)
        assert run(Ingest(opened).ingest([inode]), opened) == set()
    assert extents(opened, inode) == extents(opened, twin)
    assert content_of(opened, inode) == MODEL
