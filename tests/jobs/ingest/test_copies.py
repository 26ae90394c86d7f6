"""Copies of data files are cut like their originals."""

import pytest

from modelfs.formats.layout import Format
from modelfs.jobs.ingest import copies, external_data
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.external_models import DATA, STARTS, TENSORS, model_naming, starts
from tests.support.run_jobs import collect, ingest_all
from tests.support.stores import content_of, new_file, noise, stored_file


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
