"""Opening a store by a path, and creating one."""

import os
from pathlib import Path
from typing import Any

import pytest

import modelfs
from modelfs.errors import DirectoryNotEmpty, InvalidArgument
from modelfs.store.index.superblock import FORMAT_VERSION


def test_opening(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store is opened by its path in any form, `~` included."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in (path, str(path), f"~/{path.name}"):
        with modelfs.open(place) as reader:
            assert reader.folder == path
            assert repr(reader) == f"modelfs.open({str(path)!r})"
    modelfs.create("~/another", chunk_size=8192)
    modelfs.create(tmp_path / "third")
    for name in ("another", "third"):
        with modelfs.open(tmp_path / name) as reader:
            assert list(reader) == []
    with pytest.raises(DirectoryNotEmpty, match="is a store already"):
        modelfs.create(path)


def test_opening_what_is_no_store(path: Path, tmp_path: Path) -> None:
    """The error names the path and the reason."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(modelfs.NotAStore, match="gone does not exist"):
        modelfs.open(tmp_path / "gone")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(modelfs.NotAStore, match="neither a modelfs store nor in a modelfs"):
            modelfs.open(place)
    text = (path / "FORMAT").read_text()
    (path / "FORMAT").write_text(text.replace(f"format {FORMAT_VERSION}", "format 99"))
    with pytest.raises(modelfs.UnsupportedFormat, match="99"):
        modelfs.open(path)
    (path / "FORMAT").write_text(text)


def test_opening_a_place_in_a_mount(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any path of a mount stands for its store, if that exists for this process."""
    store = [path]
    monkeypatch.setattr(os, "getxattr", lambda *_: os.fsencode(store[0]))
    with modelfs.open(tmp_path) as reader:
        assert reader.folder == path
    store[0] = tmp_path / "elsewhere"
    with pytest.raises(modelfs.NotAStore, match="elsewhere, which does not exist here"):
        modelfs.open(tmp_path)


@pytest.mark.parametrize("wrong", [3, None, b"a", ["a"]])
def test_something_else_than_a_path(path: Path, wrong: Any) -> None:
    """Every call that takes a path has the same error."""
    with modelfs.open(path) as reader:
        for call in (
            *(modelfs.open, modelfs.create, reader.__getitem__, reader.__contains__),
            lambda prefix: next(reader.files(prefix)),
        ):
            with pytest.raises(TypeError, match="a path is a str or a path object, not "):
                call(wrong)


def test_an_empty_path_is_not_the_current_folder(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty path, as of a variable that is not set, names no store, and none is made there."""
    monkeypatch.chdir(path)
    with pytest.raises(modelfs.NotAStore, match="empty"):
        modelfs.open("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgument, match="empty"):
        modelfs.create("")
    assert not (tmp_path / "FORMAT").exists()
