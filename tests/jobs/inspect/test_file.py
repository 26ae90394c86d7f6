"""What `inspect` reports of a file."""

import json
from pathlib import Path

import pytest

from modelfs.errors import InvalidArgument, IsADirectory, NotFound
from modelfs.jobs.inspect.file import inspect
from modelfs.jobs.inspect.layout import HOLE, MISSING, STAGED
from modelfs.jobs.inspect.report import FormShare
from modelfs.store.index.tables import ROOT, InodeNumber, Table, number_key, number_of
from modelfs.store.store import Store
from tests.support.file_reports import report_on
from tests.support.paths import MODELS
from tests.support.run_jobs import collect
from tests.support.stores import (
    CHUNK,
    ME,
    Box,
    model_of,
    new_file,
    noise,
    small_windows,
    stored_file,
)

# -- what is in a file


def test_tensors(family: Store) -> None:
    """The tensors of a model are those of its header, in file order."""
    content = (MODELS / "base.safetensors").read_bytes()
    head = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:head])
    header.pop("__metadata__", None)
    expected = sorted(
        (head + entry["data_offsets"][0], name, entry["dtype"], tuple(entry["shape"]))
        for name, entry in header.items()
    )
    report = report_on(family, "base.safetensors")
    assert [(each.start, each.name, each.dtype, each.shape) for each in report.tensors] == expected


def test_formats(family: Store) -> None:
    """A report names the format that a file was recognised as."""
    names = ("base.safetensors", "base.onnx", "base-external.onnx.data", "base.pt", "README.md")
    formats = [report_on(family, name).format for name in names]
    assert formats == ["safetensors", "onnx", "onnx_data", "torch", "plain"]


def test_sums(family: Store) -> None:
    """Every byte of a file and of a tensor is counted in one form, and stored bytes add up."""
    for source in MODELS.iterdir():
        report = report_on(family, source.name)
        assert report.size == source.stat().st_size
        assert sum(form.bytes for form in report.forms) == report.size
        assert sum(form.stored_bytes for form in report.forms) == report.stored_bytes
        assert report.own_bytes + report.shared_bytes == report.stored_bytes
        for tensor in report.tensors:
            assert sum(form.bytes for form in tensor.forms) == tensor.bytes
            assert sum(form.stored_bytes for form in tensor.forms) == tensor.stored_bytes


def test_own_bytes_are_freed(family: Store) -> None:
    """What a report says is a file's own is what goes when the file goes."""
    report = report_on(family, "base.onnx")
    before = family.inventory.statistics(0).stored_bytes
    family.namespace.unlink(ROOT, b"base.onnx")
    collect(family)
    assert before - family.inventory.statistics(0).stored_bytes == report.own_bytes


def test_plain_file(opened: Store) -> None:
    """A file without tensors has chunks all the same."""
    report = inspect(opened, stored_file(opened, b"x", noise(2 * CHUNK + 5)))
    assert (report.tensors, report.chunks, report.path) == ((), 3, "/x")
    assert report.forms == (FormShare("plain", 2 * CHUNK + 5, 2 * CHUNK + 5),)


def test_empty_file(opened: Store) -> None:
    """An empty file consists of nothing."""
    report = inspect(opened, new_file(opened, b"x"))
    assert (report.size, report.forms, report.chunks) == (0, (), 0)


# -- what is not in chunks


def test_before_ingest(opened: Store) -> None:
    """Until it is ingested, a file is staged, and its tensors are not known."""
    report = inspect(opened, new_file(opened, b"x", model_of(noise(CHUNK))))
    assert report.forms == (FormShare(STAGED, report.size, 0),)
    assert (report.staged_bytes, report.stored_bytes, report.tensors) == (report.size, 0, ())


def test_edited(opened: Store) -> None:
    """What was written over a stored tensor is staged, the rest of it is still in chunks."""
    content = model_of(noise(3 * CHUNK))
    inode = stored_file(opened, b"x", content)
    opened.writes.write(inode, len(content) - 100, b"new" * 20)
    [tensor] = inspect(opened, inode).tensors
    assert {form.form: form.bytes for form in tensor.forms} == {
        "plain": 3 * CHUNK - 60,
        STAGED: 60,
    }


def test_cut_short(opened: Store) -> None:
    """What a truncation hides is not reported, though its extents are still there."""
    content = noise(4 * CHUNK)
    inode = stored_file(opened, b"x", content)
    stored_file(opened, b"twin", content)
    opened.writes.truncate(inode, CHUNK)
    opened.writes.truncate(inode, 3 * CHUNK)
    report = inspect(opened, inode)
    assert (report.size, report.chunks) == (3 * CHUNK, 1)
    assert {form.form: form.bytes for form in report.forms} == {"plain": CHUNK, HOLE: 2 * CHUNK}
    assert [each.bytes for each in report.shared_with] == [CHUNK]


def test_hole_of_any_size(opened: Store) -> None:
    """A hole of a petabyte costs nothing to report."""
    inode = new_file(opened, b"x")
    opened.writes.truncate(inode, 10**15)
    opened.writes.write(inode, 10**14, b"x")
    forms = {form.form: form.bytes for form in inspect(opened, inode).forms}
    assert forms == {HOLE: 10**15 - 1, STAGED: 1}


def test_many_windows(monkeypatch: pytest.MonkeyPatch, opened: Store) -> None:
    """Staged ranges and extents that alternate are distinguished."""
    small_windows(monkeypatch, 2 * CHUNK)
    inode = stored_file(opened, b"x", noise(8 * CHUNK))
    for number in range(4):
        opened.writes.write(inode, 2 * number * CHUNK, noise(CHUNK, number))
    forms = {form.form: form.bytes for form in inspect(opened, inode).forms}
    assert forms == {"plain": 4 * CHUNK, STAGED: 4 * CHUNK}


# -- who asks, and what for


def test_read_only(family_box: Box) -> None:
    """What a reader reports of the last commit is what the owner reports."""
    expected = report_on(family_box.store, "base.onnx")
    family_box.store.close()
    with Store(family_box.path, read_only=True) as store:
        assert report_on(store, "base.onnx") == expected
    family_box.store = Store(family_box.path)


def test_survives_a_crash(box: Box) -> None:
    """What was flushed and not ingested is reported as staged after a crash."""
    inode = new_file(box.store, b"x", noise(CHUNK))
    box.store.flush(inode)
    box.store.commit()
    assert inspect(box.crash(), inode).forms == (FormShare(STAGED, CHUNK, 0),)


def test_jsonable(family: Store) -> None:
    """A report goes through JSON unchanged."""
    report = report_on(family, "base.onnx").to_dict()
    assert json.loads(json.dumps(report)) == report


def test_what_cannot_be_inspected(opened: Store) -> None:
    """Only regular files can be inspected."""
    link = opened.namespace.symlink(ROOT, b"link", b"x", ME)
    with pytest.raises(IsADirectory):
        inspect(opened, ROOT)
    with pytest.raises(InvalidArgument):
        inspect(opened, link.inode)
    with pytest.raises(NotFound):
        inspect(opened, InodeNumber(99))


def test_missing_chunk(folder: Path) -> None:
    """A chunk that the index has lost is reported as missing, not raised."""
    with Store(folder) as store:
        inode = stored_file(store, b"x", noise(2 * CHUNK))
        [first, *_] = [number_of(key) for key, _ in store.index.pages(Table.CHUNKS)]
        with store.index.change():
            store.index.delete(Table.CHUNKS, number_key(first))
        forms = {form.form: form.bytes for form in inspect(store, inode).forms}
    assert forms == {"plain": CHUNK, MISSING: CHUNK}
