"""The report of a scrub names the files and tensors that the present damage affects."""

import json
from dataclasses import asdict

import pytest

from modelfs.jobs.check.findings import Finding
from modelfs.jobs.scrub.report import damage_findings, scrub_report
from modelfs.jobs.scrub.scrubber import Scrubber
from modelfs.store.index.tables import ChunkId
from modelfs.store.store import Store
from tests.support.derived_chunks import chunk_at, pair, spoil
from tests.support.run_jobs import scrub
from tests.support.stores import CHUNK, Box, model_of, noise, overwrite, pack_path, stored_file


@pytest.fixture
def models(opened: Store) -> Store:
    """A store of two models that share a tensor, and a file beside them."""
    shared = noise(CHUNK, 2)
    stored_file(opened, b"a", model_of(noise(CHUNK, 1), shared))
    stored_file(opened, b"b\xff", model_of(shared, noise(CHUNK, 3), note="b"))
    stored_file(opened, b"c", noise(CHUNK, 4))
    return opened


def chunks_of(store: Store, content: bytes) -> ChunkId:
    """Return the chunk that has a content."""
    (chunk,) = (
        chunk
        for number in range(1, 20)
        if (record := store.chunks.find(chunk := ChunkId(number))) is not None
        and store.chunk_reader.read(chunk, record) == content
    )
    return chunk


def test_a_chunk_is_a_finding_with_all_that_need_it(models: Store) -> None:
    """Files and tensors of every file that has the chunk are named, and of no other."""
    shared, alone = (chunks_of(models, noise(CHUNK, seed)) for seed in (2, 4))
    findings = damage_findings(models, {shared: "rotten", alone: "gone"})
    assert findings == [
        Finding("content", "rotten", (b"/a", b"/b\xff"), ("t1", "t0")),
        Finding("content", "gone", (b"/c",), ()),
    ]


def test_without_damage_there_is_no_finding(models: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then no extent of the store is read either."""

    def walked(*_: object) -> None:
        raise AssertionError("walked over all extents")

    monkeypatch.setattr("modelfs.jobs.check.impact.impacts", walked)
    assert damage_findings(models, {}) == []


def test_files_that_derive_from_a_chunk_are_named(opened: Store) -> None:
    """A damaged base is damage of its dependants' files, too."""
    _, _, base, part = pair(opened)
    (of_base,) = damage_findings(opened, {base: "rotten"})
    (of_part,) = damage_findings(opened, {part: "rotten"})
    assert set(of_base.files) == {b"/base", b"/part0"}
    assert set(of_part.files) == {b"/part0"}


def test_a_store_that_was_never_scrubbed(models: Store) -> None:
    """The report has zeros and no findings, and is JSON."""
    report = scrub_report(models)
    assert (report["started_ns"], report["ended_ns"], report["chunks"]) == (0, 0, 0)
    assert report["findings"] == []
    assert report["running"] is False
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize("running", [False, True])
def test_a_report_has_the_status_and_the_damage(box: Box, running: bool) -> None:
    """All fields of the status are there, and the damage that was found and is there still."""
    store = box.store
    inode = stored_file(store, b"name\xff", noise(2 * CHUNK, 1))
    chunk = chunk_at(store, inode, CHUNK)
    record = store.chunks.record(chunk)
    scrubber = Scrubber(store)
    scrubber.begin(rate=77)
    spoil(store, chunk)
    scrub(store)
    report = scrub_report(store, running=running)
    assert report["running"] is running
    assert {name: report[name] for name in asdict(scrubber.status())} == asdict(scrubber.status())
    (finding,) = report["findings"]
    assert Finding.from_dict(finding).files == (b"/name\xff",)
    assert finding["invariant"] == "content"
    assert json.loads(json.dumps(report))["findings"][0]["files"] == ["/name\udcff"]
    good = noise(2 * CHUNK, 1)[CHUNK:]
    overwrite(pack_path(store.packs, record.pack), record.offset, good)
    scrubber.begin()
    scrub(store)
    assert scrub_report(store)["findings"] == []
