"""Steps of ingest are applied right when files change between them."""

import dataclasses
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from modelfs.errors import CorruptIndex
from modelfs.formats.layout import Format
from modelfs.jobs.ingest.apply import Applier
from modelfs.jobs.ingest.job import Ingest
from modelfs.jobs.ingest.passes import Pass, Region
from modelfs.jobs.ingest.worker import Worker
from modelfs.jobs.steps import Work
from modelfs.store.disk.calls import run_here
from modelfs.store.files.tensors import TensorTable
from modelfs.store.files.writes import write_part
from modelfs.store.index.tables import ROOT, Table, number_key
from modelfs.store.store import Store
from tests.support.ingest_regions import apply, begin_region, run, shifted_copy
from tests.support.run_jobs import collect, drain, ingest_all, ingest_file
from tests.support.stores import (
    CHUNK,
    WINDOW,
    Box,
    content_of,
    model_of,
    new_file,
    noise,
    overwrite,
    pack_path,
    pending_files,
    stored_file,
)

pytestmark = pytest.mark.usefixtures("windows")


def finish(store: Store, file_pass: Pass, region: Region) -> None:
    apply(store, region)
    applier = Applier(store)
    assert applier.next_region(file_pass) is None
    applier.end_pass(file_pass)


def test_ingest_leaves_nothing_staged(opened: Store) -> None:
    """A complete pass puts all bytes into chunks, and the next commit deletes staging files."""
    data = noise(3 * WINDOW)
    inode = new_file(opened, b"f", data)
    ingest_all(opened)
    assert content_of(opened, inode) == data
    assert opened.staging.find(inode) is None
    assert list(opened.staging.directory.path.iterdir()) == []
    assert pending_files(opened) == []


def test_a_file_that_is_replaced_during_a_region_keeps_the_new_bytes(opened: Store) -> None:
    """A window that was cut off and begun again differs from the one that the worker read."""
    inode = new_file(opened, b"f", b"old content")
    file_pass, region = begin_region(opened, inode)
    run(opened, region)
    opened.writes.truncate(inode, 0)
    opened.writes.write(inode, 0, b"new")
    finish(opened, file_pass, region)
    assert content_of(opened, inode) == b"new"


def test_a_piece_that_is_not_applied_keeps_all_its_windows(opened: Store) -> None:
    """A write into one of a piece's windows keeps the piece's other windows staged, too."""
    tensor = noise(CHUNK - 100, 1)
    data = model_of(tensor, noise(CHUNK, 2), noise(2 * WINDOW, 3))
    inode = new_file(opened, b"f", data)
    _, region = begin_region(opened, inode)
    run(opened, region)
    opened.writes.write(inode, WINDOW + 10, b"new")
    apply(opened, region)
    wanted = data[: WINDOW + 10] + b"new" + data[WINDOW + 13 :]
    assert content_of(opened, inode) == wanted
    ingest_all(opened)
    assert content_of(opened, inode) == wanted


def test_a_write_during_a_region_wins(opened: Store) -> None:
    """Bytes written during the ingest of a region lie above the extents of the region."""
    data = noise(WINDOW)
    inode = new_file(opened, b"f", data)
    file_pass, region = begin_region(opened, inode)
    parts = opened.writes.begin(inode, 5, memoryview(b"five"))
    run(opened, region)
    write_part(parts[0])
    opened.writes.end(inode, parts, 4)
    finish(opened, file_pass, region)
    assert content_of(opened, inode) == data[:5] + b"five" + data[9:]


def test_a_write_that_lasts_longer_than_a_region_wins(opened: Store) -> None:
    """A window with a write under way is never dropped."""
    data = noise(WINDOW)
    inode = new_file(opened, b"f", data)
    parts = opened.writes.begin(inode, 5, memoryview(b"five"))
    file_pass, region = begin_region(opened, inode)
    run(opened, region)
    finish(opened, file_pass, region)
    write_part(parts[0])
    opened.writes.end(inode, parts, 4)
    assert content_of(opened, inode) == data[:5] + b"five" + data[9:]


def test_truncation_during_a_region_wins(opened: Store) -> None:
    """Bytes that were cut off during the ingest of a region do not come back through the map."""
    data = noise(2 * WINDOW)
    inode = new_file(opened, b"f", data)
    file_pass, region = begin_region(opened, inode)
    run(opened, region)
    opened.writes.truncate(inode, 100)
    opened.writes.truncate(inode, len(data))
    finish(opened, file_pass, region)
    wanted = data[:100].ljust(len(data), b"\0")
    assert content_of(opened, inode) == wanted
    ingest_all(opened)
    assert content_of(opened, inode) == wanted


def test_writes_behind_an_untrimmed_cut_stay(opened: Store) -> None:
    """Bytes written behind a truncation are kept while its extents are not trimmed yet."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    opened.writes.truncate(inode, 10)
    opened.writes.write(inode, 20, b"behind")
    wanted = noise(CHUNK)[:10] + bytes(10) + b"behind"
    applier = Applier(opened)
    file_pass = applier.begin_pass(inode, complete=True)
    region = applier.next_region(file_pass)
    assert region is not None
    run(opened, region)
    finish(opened, file_pass, region)
    assert content_of(opened, inode) == wanted


def test_removal_during_a_region_ends_the_pass(opened: Store) -> None:
    """A file that is removed during the ingest of a region, or before it, ends its pass."""
    first, second = new_file(opened, b"f", b"x"), new_file(opened, b"g", b"y")
    file_pass, region = begin_region(opened, first)
    run(opened, region)
    applier = Applier(opened)
    other = applier.begin_pass(second, complete=True)
    for name, inode in ((b"f", first), (b"g", second)):
        opened.namespace.unlink(ROOT, name)
        drain(opened.orphans.remove(inode))
    apply(opened, region)
    assert file_pass.done
    assert applier.next_region(other) is None
    applier.end_pass(other)
    ingest_all(opened)


def test_a_staging_file_deleted_during_a_region_voids_the_pass(opened: Store) -> None:
    """A region does nothing if its file was cut and the cut is durable."""
    inode = new_file(opened, b"f", noise(WINDOW))
    opened.flush(inode)
    opened.commit()
    _, region = begin_region(opened, inode)
    opened.writes.truncate(inode, 0)
    opened.flush(inode)
    opened.commit()
    done, result = Worker(opened).work([region], opened.writer())
    assert done == []
    drain(opened.publish(result))
    opened.writes.write(inode, 0, b"new")
    ingest_all(opened)
    assert content_of(opened, inode) == b"new"


def test_a_region_voids_a_flush_under_way(box: Box) -> None:
    """A flush that began before an ingested file grew does not restore its old size."""
    store = box.store
    inode = new_file(store, b"f", noise(100))
    flush = store.flusher.flush(inode)
    sync = next(flush)
    data = noise(3 * WINDOW)
    store.writes.write(inode, 0, data)
    _, region = begin_region(store, inode)
    run(store, region)
    apply(store, region)
    sync()
    run_here(flush)
    store.commit()
    assert content_of(box.crash(), inode) in (data, data[:100])


def test_a_piece_past_the_region_is_not_behind_the_size(box: Box) -> None:
    """After a crash between two regions, a longer size shows zeros behind the old one."""
    store = box.store
    data = model_of(noise(20 * CHUNK))
    inode = new_file(store, b"f", data)
    _, region = begin_region(store, inode)
    run(store, region)
    apply(store, region)
    store.commit()
    store = box.crash()
    size = store.contents.node(inode).size
    store.writes.truncate(inode, len(data))
    assert content_of(store, inode) == data[:size].ljust(len(data), b"\0")


def test_gc_during_a_region_costs_nothing(opened: Store) -> None:
    """A dead chunk that a region needs again, and gc removes before its end, is written again."""
    data = noise(CHUNK)
    old = stored_file(opened, b"old", data)
    opened.writes.truncate(old, 0)
    ingest_file(opened, old)
    inode = new_file(opened, b"new", data)
    file_pass, region = begin_region(opened, inode)
    run(opened, region)
    assert sum(opened.reclaimer.remove_dead())
    finish(opened, file_pass, region)
    assert content_of(opened, inode) == data
    ingest_all(opened)
    assert content_of(opened, inode) == data
    assert pending_files(opened) == []


def test_a_region_that_fails_changes_nothing(box: Box) -> None:
    """If a region meets damage of the index, the staged state still agrees with the index."""
    store = box.store
    data = noise(3 * WINDOW)
    inode = stored_file(store, b"f", noise(CHUNK, 9))
    store.writes.write(inode, 0, data)
    store.flush(inode)
    store.commit()
    store.writes.truncate(inode, WINDOW + 10)
    extent = next(store.maps.within(inode, 0, 1))
    key = number_key(extent.chunk)
    value = store.index.get(Table.CHUNKS, key)
    assert value is not None
    applier = Applier(store)
    region = applier.next_region(applier.begin_pass(inode, complete=True))
    assert region is not None
    run(store, region)
    with store.index.change():
        store.index.put(Table.CHUNKS, key, b"damaged")
    with pytest.raises(CorruptIndex):
        apply(store, region)
    with store.index.change():
        store.index.put(Table.CHUNKS, key, value)
    assert content_of(store, inode) == data[: WINDOW + 10]
    store.commit()
    assert content_of(box.crash(), inode) in (data, data[: WINDOW + 10])


def test_a_trim_that_fails_changes_nothing(box: Box) -> None:
    """A trim that meets damage of the index leaves the staged state in agreement with it."""
    store = box.store
    data = noise(3 * WINDOW)
    inode = stored_file(store, b"f", data)
    store.writes.truncate(inode, 10)
    store.writes.truncate(inode, 20)
    extent = next(store.maps.within(inode, WINDOW, WINDOW + 1))
    key = number_key(extent.chunk)
    value = store.index.get(Table.CHUNKS, key)
    assert value is not None
    with store.index.change():
        store.index.put(Table.CHUNKS, key, b"damaged")
    with pytest.raises(CorruptIndex):
        drain(store.flusher.trim(inode))
    with store.index.change():
        store.index.put(Table.CHUNKS, key, value)
    assert content_of(store, inode) == data[:10] + bytes(10)
    drain(store.flusher.trim(inode))
    store.commit()
    store = box.crash()
    size = store.contents.node(inode).size
    store.writes.truncate(inode, 100)
    assert content_of(store, inode) == data[: min(size, 10)].ljust(100, b"\0")


def test_a_partial_pass_requests_a_complete_one(box: Box) -> None:
    """A file that was ingested while it was written gets a complete pass, after a crash too."""
    store = box.store
    data = model_of(noise(2 * WINDOW - 72))
    data += bytes(-len(data) % WINDOW)
    inode = new_file(store, b"f", data)
    ingest_file(store, inode, complete=False)
    store.commit()
    assert inode in pending_files(store)
    assert inode in pending_files(box.crash())


def test_a_file_over_a_damaged_chunk_stays_staged(
    opened: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """An edit of a damaged chunk stays staged, and other files are ingested."""
    data = noise(CHUNK)
    inode = stored_file(opened, b"f", data)
    extent = next(opened.maps.within(inode, 0, 1))
    record = opened.chunks.record(extent.chunk)
    path = pack_path(opened.packs, record.pack)
    overwrite(path, record.offset, bytes([data[0] ^ 1]))
    opened.writes.write(inode, 100, b"edit")
    other = new_file(opened, b"g", b"other")
    ingest_all(opened)
    assert pending_files(opened) == [inode]
    assert content_of(opened, other) == b"other"
    assert opened.contents.read(inode, 100, 4) == b"edit"
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    overwrite(path, record.offset, data[:1])
    ingest_all(opened)
    assert pending_files(opened) == []
    assert content_of(opened, inode) == data[:100] + b"edit" + data[104:]


def test_a_model_is_recognised(opened: Store) -> None:
    """A complete pass records the format in the inode, and the tensors in the index."""
    inode = stored_file(opened, b"f", model_of(noise(5000), noise(300)))
    assert opened.inodes.get(inode).format is Format.SAFETENSORS
    rows = opened.index.pages(Table.TENSORS)
    assert len(list(rows)) == 2
    opened.writes.write(inode, 0, b"\0")
    ingest_file(opened, inode)
    assert opened.inodes.get(inode).format is Format.PLAIN
    assert list(opened.index.pages(Table.TENSORS)) == []


def test_an_empty_file_is_plain(opened: Store) -> None:
    """A file that is cut to nothing loses its format, its chunks and their space."""
    inode = stored_file(opened, b"f", model_of(noise(5000)))
    opened.writes.truncate(inode, 0)
    ingest_file(opened, inode)
    assert opened.inodes.get(inode).format is Format.PLAIN
    collect(opened)
    assert list(opened.index.pages(Table.CHUNKS)) == []


class Changing:
    """A file that is written and cut at random, and its expected content."""

    def __init__(self, store: Store, size: int) -> None:
        self.store = store
        self.size = size
        self.content = bytearray(noise(size))
        self.inode = new_file(store, b"f", bytes(self.content))
        self._random = Random(7)

    def change(self) -> None:
        at = self._random.randrange(self.size - 500)
        data = self._random.randbytes(self._random.randrange(1, 500))
        self.store.writes.write(self.inode, at, data)
        self.content.extend(bytes(max(0, at + len(data) - len(self.content))))
        self.content[at : at + len(data)] = data
        if self._random.random() < 0.05:
            size = self._random.randrange(self.size)
            self.store.writes.truncate(self.inode, size)
            self.content[:] = self.content[:size].ljust(size, b"\0")

    def check(self) -> None:
        assert content_of(self.store, self.inode) == bytes(self.content)


def pass_beside(file: Changing, pool: ThreadPoolExecutor) -> None:
    """Ingest a file on another thread, and change it on this one."""
    store = file.store
    drain(store.flusher.trim(file.inode))
    applier, worker = Applier(store), Worker(store)
    file_pass = applier.begin_pass(file.inode, complete=True)
    while (region := applier.next_region(file_pass)) is not None:
        running = pool.submit(worker.work, [region], store.writer())
        file.change()
        while not running.done():
            file.change()
        done, result = running.result()
        drain(store.publish(result))
        if not done:
            break  # a cut deleted the staging file of a window
        apply(store, region)
        file.check()
    applier.end_pass(file_pass)


def test_files_are_written_while_regions_run_on_threads(opened: Store) -> None:
    """Work on one thread, with writes, cuts and reads on the owner's, loses no byte."""
    file = Changing(opened, 6 * WINDOW)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(30):
            pass_beside(file, pool)
    ingest_all(opened)
    file.check()
    collect(opened)


@pytest.mark.parametrize("steps", range(1, 8))
def test_a_crash_during_a_pass_leaves_it_owed(box: Box, steps: int) -> None:
    """Whatever was committed of it, the file gets the layout of its content in the end."""
    inode = stored_file(box.store, b"f", model_of(noise(5000), noise(70)))
    new = model_of(noise(3000, 3), noise(4000, 4), noise(100, 5))
    box.store.writes.truncate(inode, 0)
    box.store.writes.write(inode, 0, new)
    box.store.flush(inode)
    box.store.commit()
    job = Ingest(box.store).ingest([inode])
    result: Any = None
    with suppress(StopIteration):
        for _ in range(steps):
            step = job.send(result)
            result = step.call() if isinstance(step, Work) else None
            box.store.commit()
    job.close()
    box.store.commit()
    ingest_all(box.crash())
    assert content_of(box.store, inode) == new
    spans = TensorTable(box.store.index).spans(inode)
    assert [(span.name, span.size) for span in spans] == [("t0", 3000), ("t1", 4000), ("t2", 100)]
    assert pending_files(box.store) == []


def test_a_pass_over_nothing_requests_nothing(opened: Store) -> None:
    """A file that is all in chunks owes no layout, before and after."""
    inode = stored_file(opened, b"f", noise(100))
    Applier(opened).request(inode)
    assert opened.inventory.requested() == []


def test_a_size_does_not_reach_into_bytes_that_were_cut(box: Box) -> None:
    """While a window that was cut is not ingested, a crash does not bring its older bytes back."""
    store = box.store
    inode = new_file(store, b"f", noise(100))
    store.flush(inode)
    store.commit()
    store.writes.truncate(inode, 10)
    store.writes.write(inode, WINDOW, noise(100, 1))
    _, region = begin_region(store, inode)
    _, result = Worker(store).work([region], store.writer())
    store.writes.write(inode, 0, b"x")  # so that window 0 is left out
    drain(store.publish(result))
    apply(store, region)
    store.commit()
    cut = b"x" + noise(100)[1:10]
    states = (cut, cut.ljust(WINDOW, b"\0") + noise(100, 1))
    assert content_of(box.crash(), inode) in states


@pytest.mark.parametrize("size", [3, 2 * CHUNK])
def test_a_truncation_that_is_done_during_a_region_stays(opened: Store, size: int) -> None:
    """Extents of before do not come back, when no hidden edge shows the truncation."""
    model = model_of(noise(5 * CHUNK, 1), noise(3000, 2))
    inode = shifted_copy(opened, model)
    file_pass, region = begin_region(opened, inode)
    run(opened, region)
    assert region.extents
    opened.writes.truncate(inode, 0)
    drain(opened.flusher.trim(inode))  # as a copy whose first byte is staged does it
    opened.writes.write(inode, 0, noise(size, 5))
    opened.writes.truncate(inode, 4 * CHUNK)
    finish(opened, file_pass, region)
    expected = noise(size, 5).ljust(4 * CHUNK, b"\0")
    assert content_of(opened, inode) == expected
    ingest_all(opened)
    assert content_of(opened, inode) == expected
    assert pending_files(opened) == []


def test_a_map_that_is_longer_than_the_file_keeps_the_state(opened: Store) -> None:
    """At the end of a pass, extents behind the end stay hidden, and the next pass removes them."""
    inode = new_file(opened, b"f", noise(3 * CHUNK))
    file_pass, region = begin_region(opened, inode)
    run(opened, region)
    apply(opened, region)
    (extent,) = opened.maps.overlapping(inode, 0, 1)
    behind = dataclasses.replace(extent, start=8 * CHUNK)
    with opened.index.change():
        opened.maps.replace(inode, behind.start, behind.stop, [behind])
    Applier(opened).end_pass(file_pass)
    assert content_of(opened, inode) == noise(3 * CHUNK)
    opened.writes.truncate(inode, 9 * CHUNK)
    assert content_of(opened, inode) == noise(3 * CHUNK) + bytes(6 * CHUNK)
    opened.writes.truncate(inode, 3 * CHUNK)
    assert pending_files(opened) == [inode]
    ingest_all(opened)
    assert [*opened.maps.overlapping(inode, 3 * CHUNK, 1 << 40)] == []
    assert opened.staging.find(inode) is None
