"""Data files are cut at the tensors that their models place in them."""

import logging

import numpy as np
import onnx
import pytest
from onnx import helper

from modelfs.formats.layout import Format
from modelfs.jobs.ingest import copies, external_data
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.tables import ROOT, InodeNumber, Table
from modelfs.store.store import Store
from tests.support.run_jobs import collect, ingest_all
from tests.support.stores import (
    CHUNK,
    FOLDER,
    ME,
    content_of,
    new_file,
    noise,
    overwrite,
    pack_path,
    stored_file,
)

# Offsets and sizes of the tensors in data files: not on the plain grid.
TENSORS = [(100, 5000), (5100, 3000)]
DATA = noise(9000)
STARTS = [0, 100, 100 + CHUNK, 5100, 8100]
PLAIN = [0, CHUNK, 2 * CHUNK]


def model_naming(location: str) -> bytes:
    """Return an ONNX model with its weights at `location`."""
    weights: list[onnx.TensorProto] = []
    for number, (offset, size) in enumerate(TENSORS):
        values = np.zeros(size, np.uint8)
        weight = helper.make_tensor(f"w{number}", onnx.TensorProto.UINT8, [size], values, raw=True)
        onnx.external_data_helper.set_external_data(weight, location, offset, size)
        weight.ClearField("raw_data")
        weights.append(weight)
    graph = helper.make_graph([], "graph", [], [], initializer=weights)
    return bytes(helper.make_model(graph).SerializeToString())


def starts(store: Store, inode: InodeNumber) -> list[int]:
    return store.maps.starts(inode, 0, 100)[0]


@pytest.mark.parametrize("first", ["model", "data"])
def test_either_may_come_first(opened: Store, first: str) -> None:
    """A data file is cut at its tensors, whether its model came before or after it."""
    contents = {b"m.onnx": model_naming("m.data"), b"m.data": DATA}
    for name in sorted(contents, reverse=first == "model"):
        new_file(opened, name, contents[name])
        ingest_all(opened)
    data = opened.namespace.lookup(ROOT, b"m.data")
    assert starts(opened, data) == STARTS
    assert opened.inodes.get(data).format is Format.ONNX_DATA
    assert content_of(opened, data) == DATA
    assert opened.pending() == []


def test_files_in_folders_below_are_followed(opened: Store) -> None:
    """A location is followed into folders below the model's own, and not through a link."""
    folder = opened.namespace.create(ROOT, b"sub", FOLDER, ME).inode
    opened.namespace.symlink(ROOT, b"link", b"sub", ME)
    data = new_file(opened, b"m.data", DATA, folder)
    new_file(opened, b"m.onnx", model_naming("link/m.data"))
    ingest_all(opened)
    assert starts(opened, data) == PLAIN
    new_file(opened, b"n.onnx", model_naming("./sub/m.data"))
    ingest_all(opened)
    assert starts(opened, data) == STARTS


def test_a_model_that_changes_no_longer_cuts_its_data(opened: Store) -> None:
    """A data file that no model names any more is plain at its next ingest."""
    model = new_file(opened, b"m.onnx", model_naming("m.data"))
    data = new_file(opened, b"m.data", DATA)
    ingest_all(opened)
    opened.writes.truncate(model, 0)
    opened.writes.write(model, 0, model_naming("other.data"))
    ingest_all(opened)
    opened.writes.write(data, 0, DATA)
    ingest_all(opened)
    assert starts(opened, data) == PLAIN
    assert content_of(opened, data) == DATA


@pytest.mark.parametrize("location", ["x" * 300, "x" * 600, "a/" * 300 + "b", "d" * 600 + "/f"])
def test_names_too_long_for_any_file_are_ignored(opened: Store, location: str) -> None:
    """A model with a location that no file can have is stored, and its location ignored."""
    model = model_naming(location)
    inode = stored_file(opened, b"m.onnx", model)
    assert content_of(opened, inode) == model
    assert list(opened.index.pages(Table.EXTERNAL_DATA)) == []


@pytest.mark.parametrize("kind", ["folder", "link", "itself"])
def test_only_data_files_are_cut(opened: Store, kind: str) -> None:
    """A location that is a folder, a link or the model itself has no effect."""
    name = "m.onnx" if kind == "itself" else "m.data"
    if kind == "folder":
        opened.namespace.create(ROOT, b"m.data", FOLDER, ME)
    elif kind == "link":
        opened.namespace.symlink(ROOT, b"m.data", b"m.onnx", ME)
    model = new_file(opened, b"m.onnx", model_naming(name))
    ingest_all(opened)
    assert opened.pending() == []
    assert content_of(opened, model) == model_naming(name)


def test_a_damaged_model_is_ignored(opened: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A data file is ingested as plain if the model that names it is damaged."""
    model = stored_file(opened, b"m.onnx", model_naming("m.data"))
    extent = next(opened.maps.within(model, 0, 1))
    record = opened.chunks.record(extent.chunk)
    path = pack_path(opened.packs, record.pack)
    good = path.read_bytes()[record.offset : record.offset + 1]
    overwrite(path, record.offset, bytes([good[0] ^ 1]))
    data = new_file(opened, b"m.data", DATA)
    ingest_all(opened)
    assert opened.pending() == []
    assert starts(opened, data) == PLAIN
    assert logging.ERROR not in {record.levelno for record in caplog.records}
    overwrite(path, record.offset, good)


def test_names_of_removed_models_are_dropped(opened: Store) -> None:
    """Garbage collection drops the names that only removed models have."""
    stored_file(opened, b"m.onnx", model_naming("m.data"))
    stored_file(opened, b"n.onnx", model_naming("m.data"))
    assert len(list(opened.index.pages(Table.EXTERNAL_DATA))) == 2
    opened.namespace.unlink(ROOT, b"m.onnx")
    collect(opened)
    (key,) = (key for key, _ in opened.index.pages(Table.EXTERNAL_DATA))
    assert int.from_bytes(key[-8:], "big") == opened.namespace.lookup(ROOT, b"n.onnx")


# -- copies of data files


@pytest.fixture
def small_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give small files a copy key, too."""
    monkeypatch.setattr(copies, "SIZE_MIN", 1000)
    monkeypatch.setattr(copies, "HEAD", 1000)


def test_tensors_of_all_models_are_bounded(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tensors of all models that name one file, at most `SPANS_MAX` are used."""
    monkeypatch.setattr(external_data, "SPANS_MAX", 3)
    for name in (b"a.onnx", b"b.onnx", b"m.data"):
        new_file(opened, name, DATA if name == b"m.data" else model_naming("m.data"))
    ingest_all(opened)
    data = opened.namespace.lookup(ROOT, b"m.data")
    assert starts(opened, data) == STARTS
    monkeypatch.setattr(external_data, "SPANS_MAX", 1)
    opened.writes.write(data, 0, DATA[:1])
    ingest_all(opened)
    assert content_of(opened, data) == DATA
    assert opened.inodes.get(data).format is Format.ONNX_DATA
    assert [span.start for span in TensorTable(opened.index).spans(data)] == [TENSORS[0][0]]


@pytest.mark.usefixtures("small_copies")
@pytest.mark.parametrize("order", [b"cdm", b"dmc", b"dcm", b"mdc"])
def test_a_copy_is_cut_like_its_original(opened: Store, order: bytes) -> None:
    """A copy that no model names is cut like the data file, and shares every chunk with it."""
    contents = {
        b"c": (b"copy", DATA),
        b"d": (b"m.data", DATA),
        b"m": (b"m.onnx", model_naming("m.data")),
    }
    for letter in order:
        name, data = contents[bytes([letter])]
        new_file(opened, name, data)
        ingest_all(opened)
    for name in (b"copy", b"m.data"):
        inode = opened.namespace.lookup(ROOT, name)
        assert starts(opened, inode) == STARTS
        assert content_of(opened, inode) == DATA
    collect(opened)


@pytest.mark.usefixtures("small_copies")
def test_a_file_with_the_same_beginning_keeps_its_bytes(opened: Store) -> None:
    """Files that differ behind their first bytes are cut alike and keep their own bytes."""
    other = DATA[:2000] + noise(7000, 1)
    new_file(opened, b"m.data", DATA)
    new_file(opened, b"m.onnx", model_naming("m.data"))
    ingest_all(opened)
    inode = stored_file(opened, b"other", other)
    assert starts(opened, inode) == STARTS
    assert content_of(opened, inode) == other
    assert content_of(opened, opened.namespace.lookup(ROOT, b"m.data")) == DATA
