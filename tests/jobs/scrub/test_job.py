"""A scrub as a job: its progress, its place after a stop, and the log of the damage it finds."""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Final

import pytest

from modelfs.jobs.drive import run
from modelfs.jobs.scrub.job import log_damage, scrub, scrub_next
from modelfs.jobs.scrub.scrubber import CheckedRange, Scrubber
from modelfs.jobs.steps import Job, Pause, Work
from modelfs.store.index.counters import SCRUB_DAMAGED
from modelfs.store.index.tables import ROOT, InodeNumber, PackId, Table, prefix_end
from modelfs.store.packs.segment import PAGE
from modelfs.store.store import Store
from tests.support.derived_chunks import chunk_at
from tests.support.failing_steps import ALL, Cancelled, FailingStep
from tests.support.stores import (
    CHUNK,
    Box,
    model_of,
    noise,
    overwrite,
    pack_path,
    stored_file,
)

FILES: Final = 5
STEPS_MAX: Final = 100


@pytest.fixture
def scrubber(box: Box) -> Scrubber:
    """The scrubber of a store of five ranges, one for each file."""
    for number in range(FILES):
        stored_file(box.store, b"%d" % number, noise(2 * CHUNK, number))
    return Scrubber(box.store)


def ranges(scrubber: Scrubber, store: Store, count: int) -> list[CheckedRange | None]:
    """Check the next ranges."""
    return [run(scrub_next(scrubber), store) for _ in range(count)]


class Damage:
    """Damage to a chunk, which the end of the block repairs."""

    def __init__(self, store: Store, inode: InodeNumber, offset: int = 0) -> None:
        record = store.chunks.record(chunk_at(store, inode, offset))
        self._path, self._offset = pack_path(store.packs, record.pack), record.offset
        self._good = self._path.read_bytes()[self._offset :][:4]

    def __enter__(self) -> None:
        overwrite(self._path, self._offset, bytes(byte ^ 255 for byte in self._good))

    def __exit__(self, *_: object) -> None:
        overwrite(self._path, self._offset, self._good)


# -- progress


def test_progress_is_called_after_each_range(box: Box, scrubber: Scrubber) -> None:
    """It gets the bytes done, which end at the bytes of all packs; between ranges others run."""
    seen: list[tuple[int, int]] = []
    steps = [*steps_of(scrub(scrubber, lambda *done: seen.append(done)))]
    assert [type(step) for step in steps] == [Work, Pause] * FILES
    total = sum(row.stop for _, row in box.store.reclaimer.packs())
    assert [each[1] for each in seen] == [total] * FILES
    done = [each[0] for each in seen]
    assert done == sorted({*done})
    assert done[-1] == total


def steps_of(job: Job[None]) -> Iterator[object]:
    """Execute the calls of a job, and yield its steps."""
    result = None
    try:
        while True:
            step = job.send(result)
            result = step.call() if isinstance(step, Work) else None
            yield step
    except StopIteration:
        return


def test_a_scrub_without_progress(box: Box, scrubber: Scrubber) -> None:
    """The status has the end of a scrub, and the chunks that were checked."""
    run(scrub(scrubber), box.store)
    status = scrubber.status()
    assert (status.chunks, status.bytes) == (2 * FILES, 2 * FILES * CHUNK)
    assert status.ended_ns >= status.started_ns > 0
    assert ranges(scrubber, box.store, 2) == [None, None]


# -- stops


def test_a_stopped_scrub_goes_on_at_its_place(box: Box, scrubber: Scrubber) -> None:
    """The next scrub, of another process too, checks the ranges that are left, and no other."""
    scrubber.begin()
    ranges(scrubber, box.store, 2)
    place = scrubber.status()
    store = box.reopen()
    seen: list[int] = []
    run(scrub(Scrubber(store), lambda done, _: seen.append(done)), store)
    assert len(seen) == FILES - 2
    assert seen[0] > place.done
    after = Scrubber(store).status()
    assert (after.chunks, after.started_ns) == (2 * FILES, place.started_ns)


@pytest.mark.parametrize("restart", [False, True])
def test_a_restart_begins_with_the_first_pack(box: Box, scrubber: Scrubber, restart: bool) -> None:
    """Counts of the stopped scrub are dropped, and all ranges are checked once more."""
    scrubber.begin()
    ranges(scrubber, box.store, 2)
    seen: list[int] = []
    run(scrub(scrubber, lambda done, _: seen.append(done), restart=restart), box.store)
    assert len(seen) == (FILES if restart else FILES - 2)
    assert scrubber.status().chunks == 2 * FILES


def test_a_scrub_that_is_cancelled_at_any_step_goes_on(box: Box, scrubber: Scrubber) -> None:
    """Each of them gets a step further at least, and all ranges are checked once in the end."""
    checked: list[int] = []
    ends = 0
    for number in range(STEPS_MAX):
        steps = FailingStep(box.store, number % 3, Cancelled(), ALL)
        try:
            steps.run(scrub(scrubber, lambda done, _: checked.append(done)))
            ends += 1
            break
        except Cancelled:
            assert scrubber.status().ended_ns == 0
    assert ends == 1
    assert checked == sorted({*checked})
    assert scrubber.status().chunks == 2 * FILES


def test_a_range_that_fails_is_checked_again(
    box: Box, scrubber: Scrubber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the call reaches the caller, and the place of the scrub stays."""
    scrubber.begin()
    ranges(scrubber, box.store, 1)
    before = scrubber.status()

    def fails(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(scrubber, "check", fails)
        with pytest.raises(MemoryError):
            run(scrub_next(scrubber), box.store)
    assert scrubber.status() == before
    run(scrub(scrubber), box.store)
    assert scrubber.status().chunks == 2 * FILES


# -- damage


def test_healed_chunks_are_forgotten_with_the_next_range(box: Box, scrubber: Scrubber) -> None:
    """A damaged chunk is recorded, and no longer once it was written again, before the end."""
    inode = box.store.namespace.lookup(ROOT, b"0")
    scrubber.begin()
    with Damage(box.store, inode):
        (first,) = ranges(scrubber, box.store, 1)
        assert first is not None
        assert first.damaged.keys() == scrubber.damaged().keys() == {chunk_at(box.store, inode)}
        stored_file(box.store, b"good", noise(2 * CHUNK, 0))
        ranges(scrubber, box.store, 1)
        prefix = SCRUB_DAMAGED
        assert [*box.store.index.keys(Table.META, prefix, prefix_end(prefix))] == []
        run(scrub(scrubber), box.store)
        assert scrubber.damaged() == {}  # the bytes at the old place are no chunk's


def test_damage_of_a_pack_is_logged_by_a_scrub(
    box: Box, scrubber: Scrubber, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged table is an error in the log, once, and the scrub goes on to its end."""
    path = pack_path(box.store.packs, 1)
    good = path.read_bytes()
    overwrite(path, PAGE + 30, b"rotten")
    run(scrub(scrubber), box.store)
    path.write_bytes(good)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "pack 1" in caplog.text
    assert scrubber.status().chunks == 2 * FILES


def test_the_log_names_files_and_tensors(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    """Each damaged chunk is a line with the paths and tensors that need it, and so is a table."""
    store = box.store
    data = model_of(*(noise(CHUNK, number) for number in range(3)))
    inodes = [stored_file(store, name, data) for name in (b"a", b"b")]
    scrubber = Scrubber(store)
    scrubber.begin()
    with Damage(store, inodes[0], len(data) - 1), Damage(store, inodes[0], 0):
        (checked,) = ranges(scrubber, store, 1)
    assert checked is not None
    assert caplog.records == []
    log_damage(store, checked)
    lines = [record.getMessage() for record in caplog.records]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert len(lines) == 2
    assert all(line.startswith("scrub: chunk ") for line in lines)
    assert all("files: /a, /b" in line for line in lines)
    assert {line.partition("tensors: ")[2] for line in lines} == {"", "t2"}
    caplog.clear()
    log_damage(store, CheckedRange(PackId(1), 0, problems=("pack 1: its table is damaged",)))
    assert [record.getMessage() for record in caplog.records] == [
        "scrub: pack 1: its table is damaged"
    ]


def test_no_damage_is_not_logged(
    box: Box, scrubber: Scrubber, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a sound range, nothing is logged, and no file is searched."""
    monkeypatch.setattr("modelfs.jobs.scrub.job.damage_findings", partial(int, "no number"))
    scrubber.begin()
    (checked,) = ranges(scrubber, box.store, 1)
    assert checked is not None
    log_damage(box.store, checked)
    assert caplog.records == []
