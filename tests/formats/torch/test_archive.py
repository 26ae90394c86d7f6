"""The tensors of archives by torch.save."""

import io
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.formats.layout import PLAIN, Format
from modelfs.formats.sniff import recognise
from tests.support.file_bytes import reader
from tests.support.paths import FORMATS_GOLDEN, MODELS, TORCH
from tests.support.torch_archives import (
    WEIGHTS,
    archive,
    changed,
    content_of,
    mapping,
    pickled,
    recognised,
    records_of,
    rezipped,
    spans_of,
    tensor,
)

REAL = sorted(TORCH.glob("*.pt"))


# -- files by torch


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_archives_have_their_pinned_layout(path: Path) -> None:
    """The layout is pinned. A missing file means: new archive, add its golden layout."""
    layout = recognised(path.read_bytes())
    found = {
        "format": layout.format.name,
        "spans": [[s.name, s.dtype, list(s.shape), s.start, s.stop] for s in layout.spans],
    }
    assert found == json.loads((FORMATS_GOLDEN / f"torch-{path.stem}.json").read_text())


def test_equal_tensors_of_both_formats_are_equal_bytes() -> None:
    """A state dict and the safetensors file of the same model have the same spans."""
    saved, weights = ((MODELS / name).read_bytes() for name in ("base.pt", "base.safetensors"))
    expected = recognised(weights)
    assert content_of(saved) == {s.name: weights[s.start : s.stop] for s in expected.spans}
    assert {(s.name, s.dtype, s.shape) for s in spans_of(saved).values()} == {
        (s.name, s.dtype, s.shape) for s in expected.spans
    }


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_a_growing_file_is_unknown_to_the_end(path: Path) -> None:
    """The beginning of an archive may grow into one, and is plain before its last byte."""
    content = path.read_bytes()
    zipped = zipfile.is_zipfile(path)
    for size in range(9, len(content)):
        cut = content[:size]
        assert recognise(reader(cut), size, partial=True) is (None if zipped else PLAIN)
        assert recognised(cut) == PLAIN


# -- archives


def test_records_are_spans() -> None:
    """Each storage is a span of its bytes, wherever it lies."""
    value = mapping({"a": tensor(0, [3]), "b": tensor(1, [2, 1])})
    for aligned in (1, 64, 4096):
        content = archive(pickled(value), {0: bytes(12), 1: b"12345678"}, aligned=aligned)
        assert content_of(content) == {"a": bytes(12), "b": b"12345678"}
        assert all(span.start % aligned == 0 for span in spans_of(content).values())


@pytest.mark.parametrize("missing", ["data.pkl", "version"])
def test_other_archives_are_plain(missing: str) -> None:
    """A zip archive without the records of every torch archive is plain bytes."""
    content = archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS})
    assert recognised(content).format is Format.TORCH
    assert recognised(content.replace(missing.encode(), b"x" * len(missing))) == PLAIN


def test_other_folders_and_records_are_no_spans() -> None:
    """Spans are the records under `data` in the folder of the first record."""
    others = {"data/x": b"1", "data/01": b"2", ".data/serialization_id": b"3", "code/0": b"4"}
    content = archive(pickled(tensor(0, [6])), {0: WEIGHTS}, others)
    content = rezipped(content, add={"other/data/1": b"5", "archive/data/1/2": b"6"})
    assert content_of(content) == {"data/0": WEIGHTS}


def test_compressed_records_are_no_spans() -> None:
    """A compressed storage has no span."""
    buffer = io.BytesIO(archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS}))
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/1", bytes(1000))
    assert content_of(buffer.getvalue()) == {"a": WEIGHTS}


def test_a_compressed_pickle_is_plain() -> None:
    """Without its pickle, an archive is none of torch."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickled(mapping({})))
        file.writestr("archive/version", b"3\n")
    assert recognised(buffer.getvalue()) == PLAIN


@pytest.mark.parametrize("name", ["data/0", "data.pkl"])
def test_repeated_names(name: str) -> None:
    """An archive with two records of a name is plain, because readers choose differently."""
    content = archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS})
    with pytest.warns(UserWarning, match="Duplicate"):
        assert recognised(rezipped(content, {f"archive/{name}": WEIGHTS})) == PLAIN


LOCAL = b"PK\3\4"


def test_overlapping_records() -> None:
    """An entry that lies within another's bytes makes an archive plain."""
    pickle_of = pickled(mapping({"a": tensor(0, [6])}))
    _, inner = records_of(archive(pickle_of, {0: b"", 1: WEIGHTS}, aligned=1))[3]
    outer = archive(pickle_of, {0: b"", 1: WEIGHTS}, aligned=1)[inner:][: 30 + 14 + 4 + 24]
    content = archive(pickle_of, {0: outer, 1: WEIGHTS}, aligned=1)
    assert recognised(content).format is Format.TORCH
    at, _ = records_of(content)[3]
    assert recognised(changed(content, at + 42, "<I", content.index(outer))) == PLAIN


@given(st.data())
def test_any_damage(data: st.DataObject) -> None:
    """With any changed bytes, nothing raises, and spans lie in the file in order and apart."""
    content = bytearray(archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS}, aligned=1))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    at = 0
    for span in recognised(bytes(content)).spans:
        assert at <= span.start <= span.stop <= len(content)
        at = span.stop
