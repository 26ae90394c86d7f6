"""Deletes that wait for a commit."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from modelfs.store.disk.deferred import DeferredDeletes
from modelfs.store.disk.descriptors import Descriptors, read_at
from modelfs.store.disk.directory import Directory
from modelfs.store.index.committed import CommittedRows
from tests.support.run_jobs import ingest_file
from tests.support.stores import Box, content_of, names_in, new_file, noise


@pytest.fixture
def files(tmp_path: Path) -> Descriptors:
    """A folder with the files a, b and c."""
    for name in "abc":
        (tmp_path / name).write_text(name)
    return Descriptors(Directory(tmp_path), os.O_RDONLY)


@pytest.fixture
def deletes(tmp_path: Path, files: Descriptors) -> DeferredDeletes:
    return DeferredDeletes(Directory(tmp_path), files)


def test_a_name_waits_for_the_commit_after_it(deletes: DeferredDeletes, tmp_path: Path) -> None:
    """A file that is listed after the drain of a commit is not deleted by that commit."""
    deletes.after_commit("a")
    drained = deletes.drain()
    deletes.after_commit("b")
    assert names_in(tmp_path) == {"a", "b", "c"}
    deletes.run(drained)
    assert names_in(tmp_path) == {"b", "c"}
    assert deletes.drain() == ["b"]
    assert deletes.drain() == []


def test_names_of_a_failed_commit_are_drained_again(deletes: DeferredDeletes) -> None:
    """Restored names and those listed meanwhile all belong to the next commit, each once."""
    deletes.after_commit("a")
    drained = deletes.drain()
    deletes.after_commit("b")
    deletes.restore(drained)
    assert sorted(deletes.drain()) == ["a", "b"]


def test_an_error_keeps_no_other_file(
    deletes: DeferredDeletes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A name whose file cannot be deleted is left in the drained list, and all others are done."""
    (tmp_path / "b").unlink()
    (tmp_path / "b").mkdir()
    for name in "abc":
        deletes.after_commit(name)
    drained = deletes.drain()
    deletes.run(drained)
    assert drained == ["b"]
    assert names_in(tmp_path) == {"b"}
    assert "cannot be deleted" in caplog.text
    assert deletes.drain() == []  # the list is the owner's, and `run` is for any thread


def test_a_deleted_file_is_readable_by_those_who_have_it(
    deletes: DeferredDeletes, files: Descriptors, tmp_path: Path
) -> None:
    """A descriptor outlives the delete, and a new file of that name is another file."""
    old = files.get("a")
    deletes.run(["a"])
    (tmp_path / "a").write_text("new")
    assert read_at(old, 0, 9) == b"a"
    assert read_at(files.get("a"), 0, 9) == b"new"


def test_a_file_that_is_gone_already_is_no_error(deletes: DeferredDeletes, tmp_path: Path) -> None:
    """A delete may be repeated, as after a crash."""
    (tmp_path / "a").unlink()
    deletes.run(["a", "b"])
    assert names_in(tmp_path) == {"c"}


def test_the_index_is_durable_before_a_file_goes(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A staging file is there while the commit that no longer mentions it is written."""
    inode = new_file(box.store, b"f", noise(100))
    box.store.flush(inode)
    box.store.commit()
    (name,) = names_in(box.store.staging.directory.path)
    ingest_file(box.store, inode)
    there: list[bool] = []
    write = CommittedRows.write

    def noted(rows: CommittedRows, *changes: Any) -> None:
        write(rows, *changes)
        there.append(name in names_in(box.store.staging.directory.path))

    monkeypatch.setattr(CommittedRows, "write", noted)
    box.store.commit()
    assert there == [True]
    assert names_in(box.store.staging.directory.path) == set()


def test_a_file_that_cannot_be_deleted_goes_at_the_next_open(
    box: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error at a delete is logged, and does not fail the commit that came before it."""
    inode = new_file(box.store, b"f", noise(100))
    box.store.flush(inode)
    box.store.commit()
    ingest_file(box.store, inode)

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fails)
        box.store.commit()
    assert "cannot be deleted" in caplog.text
    assert len(names_in(box.store.staging.directory.path)) == 1
    store = box.crash()
    assert names_in(store.staging.directory.path) == set()
    assert content_of(store, inode) == noise(100)


@pytest.mark.parametrize("error", [OSError("broken"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("call", [0, 1], ids=["write", "deletes"])
def test_a_commit_that_is_cancelled_forgets_no_file(
    box: Box, call: int, error: BaseException
) -> None:
    """An exception in place of either call of a commit leaves its files to the next commit."""
    inode = new_file(box.store, b"f", noise(100))
    box.store.flush(inode)
    box.store.commit()
    ingest_file(box.store, inode)
    calls = box.store.commit_calls()
    pending = next(calls)
    for _ in range(call):
        pending()
        pending = next(calls)
    with pytest.raises(type(error)):
        calls.throw(error)
    assert len(names_in(box.store.staging.directory.path)) == 1
    new_file(box.store, b"g")
    box.store.commit()
    assert names_in(box.store.staging.directory.path) == set()
