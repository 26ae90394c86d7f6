"""Edits of maps, compared with the bytes of the file, beside ingest, and over a crash."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from random import Random
from typing import Final
from unittest import mock

import pytest

from modelfs.errors import NotSupported
from modelfs.jobs.ingest.apply import Applier
from modelfs.jobs.ingest.passes import Pass
from modelfs.jobs.ingest.worker import Worker
from modelfs.store.files import map_edits, whole_file
from modelfs.store.files.filemap import FileMaps
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.file_maps import EDGES, ByteModel, cut_into_bytes, data_of
from tests.support.kernel_writes import passed, passed_file, path_of, whole_of
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
    staged_of,
    stored_file,
)

DATA: Final = noise(6 * CHUNK)
HOLE: Final = (700, 3 * CHUNK + 5)
PUNCHED: Final = DATA[: HOLE[0]] + bytes(HOLE[1] - HOLE[0]) + DATA[HOLE[1] :]


def punch(store: Store, inode: InodeNumber, start: int, stop: int) -> None:
    drain(store.edits.punch(inode, start, stop))


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("seed", range(6))
def test_punched_files(box: Box, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A punched range is a hole, and reads as zeros, and all other bytes stay."""
    monkeypatch.setattr(map_edits, "EDIT_SLICE", 2)
    random = Random(seed)
    model = ByteModel()
    inode = new_file(box.store, b"f")
    for _ in range(80):
        store, offset, other = box.store, random.choice(EDGES), random.choice(EDGES)
        match random.randrange(9):
            case 0 | 1:
                data = noise(random.choice((1, 700, 2 * CHUNK)), offset)
                store.writes.write(inode, offset, data)
                model.write(offset, data)
            case 2:
                store.writes.truncate(inode, offset)
                model.truncate(offset)
            case 3 | 4 | 5:
                punch(store, inode, min(offset, other), max(offset, other))
                model.punch(min(offset, other), max(offset, other))
            case 6:
                ingest_file(store, inode)
            case 7:
                durable(store, inode)
            case _:
                box.reopen()
        assert content_of(box.store, inode) == model.content
        assert data_of(box.store, inode) == model.data
    ingest_all(box.store)
    assert content_of(box.store, inode) == model.content
    assert data_of(box.store, inode) == model.data
    assert pending_files(box.store) == []


def test_a_slice_has_few_extents(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range of many extents is punched in slices, and no slice removes more than its share."""
    inode = stored_file(opened, b"f", DATA[:1000])
    cut_into_bytes(opened, inode, 0, 1000)
    sizes: list[int] = []
    replace = opened.maps.replace

    def replacing(inode: InodeNumber, start: int, stop: int, new: list[Extent]) -> None:
        sizes.append(len([*opened.maps.overlapping(inode, start, stop)]))
        replace(inode, start, stop, new)

    monkeypatch.setattr(opened.maps, "replace", replacing)
    punch(opened, inode, 10, 990)
    assert sizes == [100] * 9 + [80]
    assert content_of(opened, inode) == DATA[:10] + bytes(980) + DATA[990:1000]


def test_a_range_without_extents(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is mapped, or all is hidden, a punch makes no change of the index."""
    inode = stored_file(opened, b"f", DATA)
    opened.writes.truncate(inode, CHUNK)
    opened.writes.truncate(inode, 6 * CHUNK)
    opened.writes.write(inode, 2 * CHUNK, DATA[:CHUNK])
    monkeypatch.setattr(opened.maps, "replace", None)
    punch(opened, inode, CHUNK, 5 * CHUNK)
    assert content_of(opened, inode) == DATA[:CHUNK] + bytes(5 * CHUNK)
    punch(opened, inode, 7 * CHUNK, 10**15)
    assert opened.contents.node(inode).size == 6 * CHUNK


# -- a crash


def test_a_crash_after_a_punch(box: Box) -> None:
    """Before a flush, bytes that a staging file has durably may come back, and no others."""
    inode = stored_file(box.store, b"f", DATA)
    box.store.writes.write(inode, 2 * CHUNK, b"staged")
    durable(box.store, inode)
    punch(box.store, inode, *HOLE)
    box.store.commit()
    content = content_of(box.crash(), inode)
    assert content == PUNCHED[: 2 * CHUNK] + b"staged" + PUNCHED[2 * CHUNK + 6 :]


def test_a_crash_after_an_fsync(box: Box) -> None:
    """After a flush and a commit, a punched range is a hole for good."""
    inode = stored_file(box.store, b"f", DATA)
    box.store.writes.write(inode, 2 * CHUNK, b"staged")
    durable(box.store, inode)
    punch(box.store, inode, *HOLE)
    durable(box.store, inode)
    assert content_of(box.crash(), inode) == PUNCHED
    assert pending_files(box.store) == [inode]


def test_a_crash_before_a_commit(box: Box) -> None:
    """Without a commit nothing has happened."""
    inode = stored_file(box.store, b"f", DATA)
    punch(box.store, inode, *HOLE)
    box.store.flush(inode)
    assert content_of(box.crash(), inode) == DATA


def test_a_crash_after_a_truncation(box: Box) -> None:
    """A truncation that was not durable is, once a commit has an edit that came after it."""
    inode = stored_file(box.store, b"f", DATA)
    box.store.writes.truncate(inode, 5 * CHUNK)
    box.store.writes.truncate(inode, 6 * CHUNK)
    punch(box.store, inode, *HOLE)
    box.store.commit()
    assert content_of(box.crash(), inode) == PUNCHED[: 5 * CHUNK]


# -- ingest


def begun(store: Store, inode: InodeNumber) -> tuple[Pass, Callable[[], None]]:
    """Begin a pass over a file, and work on its region; return the pass, and the end of it."""
    applier, worker = Applier(store), Worker(store)
    applier.request(inode)
    file_pass = applier.begin_pass(inode, complete=True)
    region = applier.next_region(file_pass)
    assert region is not None
    with store.writing() as writer:
        _, written = worker.work([region], writer)

    def end() -> None:
        drain(store.publish(written))
        drain(applier.apply(region))
        assert applier.next_region(file_pass) is None
        drain(applier.apply_rows(file_pass))
        applier.end_pass(file_pass)

    return file_pass, end


@pytest.mark.parametrize("staged", [False, True])
def test_ingest_does_not_undo_a_punch(opened: Store, *, staged: bool) -> None:
    """Extents that were made before an edit are not applied, and the file gets another pass."""
    inode = new_file(opened, b"f", DATA)
    if not staged:
        ingest_file(opened, inode)
        with opened.index.change():  # extents of another cut, all of which are to be replaced
            shifted = halves(opened.maps, inode)
            opened.maps.replace(inode, 0, len(DATA), shifted)
        opened.writes.write(inode, 0, DATA[:1])
    _, end = begun(opened, inode)
    punch(opened, inode, *HOLE)
    end()
    assert content_of(opened, inode) == PUNCHED
    assert pending_files(opened) == [inode]
    ingest_all(opened)
    assert content_of(opened, inode) == PUNCHED
    assert pending_files(opened) == []


def halves(maps: FileMaps, inode: InodeNumber) -> list[Extent]:
    """Return a file's extents, each in two halves."""

    def parts() -> Iterator[Extent]:
        for extent in maps.within(inode, 0, len(DATA)):
            middle = extent.start + extent.length // 2
            yield extent.part(extent.start, middle)
            yield extent.part(middle, extent.stop)

    return [*parts()]


def test_an_edit_before_a_pass(opened: Store) -> None:
    """A pass that begins after an edit applies its extents."""
    inode = new_file(opened, b"f", DATA)
    punch(opened, inode, *HOLE)
    _, end = begun(opened, inode)
    end()
    assert opened.staging.find(inode) is None
    assert content_of(opened, inode) == PUNCHED


def test_the_tensors_of_a_punched_model(opened: Store) -> None:
    """A model whose header becomes a hole has no tensors any more."""
    inode = stored_file(opened, b"f", model_of(noise(5000, 1), noise(300, 2)))
    assert opened.inodes.get(inode).tensor_rows == 2
    punch(opened, inode, 0, 8)
    assert opened.inventory.requested() == [inode]
    ingest_all(opened)
    assert opened.inodes.get(inode).tensor_rows == 0


def test_a_punch_during_a_flush(box: Box) -> None:
    """A flush that began before a punch of mapped bytes begins again, and has the punch."""
    inode = stored_file(box.store, b"f", DATA)
    box.store.writes.write(inode, 2 * CHUNK, b"staged")
    flushing = box.store.flusher.flush(inode)
    sync = next(flushing)
    punch(box.store, inode, *HOLE)
    sync()
    for again in flushing:
        again()
    box.store.commit()
    assert content_of(box.crash(), inode) == PUNCHED


# -- whole files


@pytest.mark.parametrize("is_open", [False, True])
def test_a_punched_whole_file(box: Box, *, is_open: bool) -> None:
    """The hole is in the whole file itself, so the kernel reads it, too."""
    inode = passed_file(box.store, b"f", DATA)
    with passed(box.store, inode) if is_open else nullcontext() as fd:
        punch(box.store, inode, *HOLE)
        assert content_of(box.store, inode) == PUNCHED
        assert path_of(box.store, whole_of(box.store, inode)).read_bytes() == PUNCHED
        if fd is not None:
            os.pwrite(fd, b"later", CHUNK)
    expected = PUNCHED if not is_open else PUNCHED[:CHUNK] + b"later" + PUNCHED[CHUNK + 5 :]
    assert content_of(box.store, inode) == expected
    durable(box.store, inode)
    assert content_of(box.crash(), inode) == expected
    ingest_all(box.store)
    assert content_of(box.store, inode) == expected
    assert next(data_of(box.store, inode).within(2 * CHUNK, 2 * CHUNK + 1), None) is None


def test_a_whole_file_over_extents(box: Box) -> None:
    """Its holes hide the map, so a crash brings back no extents below them."""
    inode = passed_file(box.store, b"f", DATA)
    with passed(box.store, inode, os.O_RDONLY):
        ingest_all(box.store)
        box.store.writes.write(inode, CHUNK, b"written")
        assert staged_of(box.store, inode).whole is not None
        assert any(box.store.maps.within(inode, 0, len(DATA)))
        durable(box.store, inode)
        punch(box.store, inode, *HOLE)
        assert content_of(box.store, inode) == PUNCHED
    box.crash()
    assert content_of(box.store, inode) == PUNCHED
    ingest_all(box.store)
    assert content_of(box.store, inode) == PUNCHED


def test_a_disk_without_holes(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole file there is not punched, and stays as it is."""
    inode = passed_file(opened, b"f", DATA)
    for error, kind in ((errno.EOPNOTSUPP, NotSupported), (errno.EIO, OSError)):
        failure = OSError(error, "no holes")
        monkeypatch.setattr(whole_file, "punch", mock.Mock(side_effect=failure))
        with pytest.raises(kind):
            punch(opened, inode, *HOLE)
    assert content_of(opened, inode) == DATA
