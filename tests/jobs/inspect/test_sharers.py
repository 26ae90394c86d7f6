"""The files and tensors that share bytes with a file."""

from collections.abc import Iterator

import pytest

from modelfs.jobs.inspect import sharers as sharers_module
from modelfs.jobs.inspect.file import inspect
from modelfs.jobs.inspect.report import Sharer
from modelfs.store.index.committed import Row
from modelfs.store.index.index import Index
from modelfs.store.index.tables import ROOT, InodeNumber, Table, pair_of
from modelfs.store.store import Store
from tests.support.file_reports import report_on, sharers
from tests.support.paths import MODELS
from tests.support.run_jobs import collect
from tests.support.stores import CHUNK, model_of, noise, stored_file

EMBEDDING = "embeddings.word_embeddings.weight"
MATRIX = "onnx::MatMul_1"


def test_shared_tensors(family: Store) -> None:
    """Of each tensor, the files and tensors that have the same chunks are named."""
    report = report_on(family, "base.onnx")
    by_name = {tensor.name: tensor for tensor in report.tensors}
    others = {
        "/base.safetensors",
        "/base.pt",
        "/base-external.onnx.data",
        "/lora-merged.safetensors",
    }
    shared_with = by_name[EMBEDDING].shared_with
    assert sharers(shared_with) == {(path, EMBEDDING) for path in others}
    assert {each.bytes for each in shared_with} == {by_name[EMBEDDING].bytes}
    # The transpose is another tensor's, and not equal to the original.
    assert sharers(by_name[MATRIX].shared_with) == {("/base-external.onnx.data", MATRIX)}


def test_shared_file(family: Store) -> None:
    """Of the file, every other file that has any of its chunks is named, in order."""
    report = report_on(family, "base.onnx")
    paths = [each.path for each in report.shared_with]
    assert paths == sorted(paths)
    assert "/base.safetensors" in paths
    assert "/base.onnx" not in paths
    assert all(each.tensor is None for each in report.shared_with)


def test_sharing_is_mutual(family: Store) -> None:
    """Whom one file names as sharing with it names that file, with as many bytes."""
    reports = {f"/{path.name}": report_on(family, path.name) for path in MODELS.iterdir()}
    for path, report in reports.items():
        for sharer in report.shared_with:
            [back] = [each for each in reports[sharer.path].shared_with if each.path == path]
            assert back.bytes == sharer.bytes


def test_tied_tensors(opened: Store) -> None:
    """Equal tensors in one file name each other, and are the file's own."""
    tied = noise(CHUNK + 500)
    model = model_of(tied, noise(700, 1), tied)
    report = inspect(opened, stored_file(opened, b"model", model))
    one, other, two = report.tensors
    assert one.shared_with == (Sharer("/model", "t2", len(tied)),)
    assert two.shared_with == (Sharer("/model", "t0", len(tied)),)
    assert other.shared_with == ()
    assert (report.shared_with, report.shared_bytes) == ((), 0)


def test_small_neighbours_do_not_share(opened: Store) -> None:
    """Small tensors and the header lie in one chunk, and yet have nothing in common."""
    report = inspect(opened, stored_file(opened, b"m", model_of(b"a" * 9, b"b" * 9, noise(500))))
    assert [tensor.shared_with for tensor in report.tensors] == [(), (), ()]
    small = report.tensors[0]
    assert 0 < small.stored_bytes <= small.bytes


def test_part_of_a_tensor(opened: Store) -> None:
    """Of a tensor that is another's beginning, as many bytes are shared as it has."""
    long = noise(3 * CHUNK)
    stored_file(opened, b"long", model_of(long, note="long"))
    report = inspect(opened, stored_file(opened, b"short", model_of(long[: 2 * CHUNK])))
    assert report.tensors[0].shared_with == (Sharer("/long", "t0", 2 * CHUNK),)


def test_many_sharers(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many sharers some are named, and that there are more is said."""
    monkeypatch.setattr(sharers_module, "SHARERS_MAX", 3)
    model = model_of(noise(CHUNK))
    inodes = [stored_file(opened, b"%d" % number, model) for number in range(5)]
    first, last = inspect(opened, inodes[0]), inspect(opened, inodes[-1])
    for report in (first, last):
        assert len(report.shared_with) == len(report.tensors[0].shared_with) == 3
        assert report.more_sharers
        assert report.tensors[0].more_sharers
    opened.namespace.unlink(ROOT, b"4")
    collect(opened)
    assert not inspect(opened, inodes[0]).more_sharers


def test_a_file_of_equal_tensors(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of which a file makes very many tensors is not compared with each of them."""
    monkeypatch.setattr(sharers_module, "PARTS_MAX", 4)
    report = inspect(opened, stored_file(opened, b"m", model_of(*[bytes(CHUNK)] * 9)))
    assert [len(tensor.shared_with) for tensor in report.tensors] == [3] * 4 + [0] * 5
    assert [tensor.more_sharers for tensor in report.tensors] == [False] * 4 + [True] * 5


def test_removed_sharer(opened: Store) -> None:
    """A file without a name that is still open is a sharer, too."""
    content = noise(CHUNK)
    gone = stored_file(opened, b"gone", content)
    report_of = stored_file(opened, b"here", content)
    opened.namespace.unlink(ROOT, b"gone")
    assert [each.path for each in inspect(opened, report_of).shared_with] == [f"(inode {gone})"]


def test_search_goes_no_further_than_needed(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other files are looked at only as far as there are uses that are not accounted for."""
    shared = noise(CHUNK)
    alone = stored_file(opened, b"alone", noise(CHUNK, 1))
    stored_file(opened, b"one", shared)
    two = stored_file(opened, b"two", shared)
    stored_file(opened, b"behind", noise(CHUNK, 2))
    seen: list[InodeNumber] = []
    pages = Index.pages

    def watched(
        index: Index, table: Table, *bounds: bytes, damaged: set[bytes] | None = None
    ) -> Iterator[Row]:
        for row in pages(index, table, *bounds, damaged=damaged):
            if table is Table.EXTENTS:
                seen.append(InodeNumber(pair_of(row[0])[0]))
            yield row

    monkeypatch.setattr(Index, "pages", watched)
    inspect(opened, alone)
    assert set(seen) == {alone}
    seen.clear()
    assert [each.path for each in inspect(opened, two).shared_with] == ["/one"]
    assert max(seen) == two
