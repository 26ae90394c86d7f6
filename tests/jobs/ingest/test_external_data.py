"""Data files are cut at the tensors that their models place in them."""

import logging

import pytest

from modelfs.formats.layout import Format
from modelfs.store.index.tables import ROOT, Table
from modelfs.store.store import Store
from tests.support.external_models import DATA, STARTS, model_naming, starts
from tests.support.run_jobs import collect, ingest_all
from tests.support.stores import (
    CHUNK,
    FOLDER,
    ME,
    content_of,
    new_file,
    overwrite,
    pack_path,
    pending_files,
    stored_file,
)

PLAIN = [0, CHUNK, 2 * CHUNK]


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
    assert pending_files(opened) == []


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
    assert pending_files(opened) == []
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
    assert pending_files(opened) == []
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
