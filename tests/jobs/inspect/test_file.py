"""What `inspect` reports of a file."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.errors import InvalidArgument, IsADirectory, NotFound
from modelfs.jobs.inspect import sharers as sharers_module
from modelfs.jobs.inspect.file import inspect
from modelfs.jobs.inspect.layout import HOLE, MISSING, STAGED
from modelfs.jobs.inspect.report import Base, FileReport, FormShare, Sharer
from modelfs.store.index.index import Index, Row
from modelfs.store.index.tables import ROOT, InodeNumber, Table, number_key, number_of, pair_of
from modelfs.store.store import Store
from tests.support.derived_chunks import chunk_at, derive
from tests.support.paths import MODELS
from tests.support.run_jobs import collect, ingest_all
from tests.support.stores import (
    CHUNK,
    ME,
    Box,
    checked,
    content_of,
    model_of,
    new_file,
    new_store,
    noise,
    small_windows,
    stored_file,
)

EMBEDDING = "embeddings.word_embeddings.weight"
MATRIX = "onnx::MatMul_1"


@pytest.fixture
def family_box(tmp_path: Path) -> Iterator[Box]:
    """A store that holds the sample models."""
    with checked(new_store(tmp_path, chunk_size=1 << 20)) as box:
        for source in sorted(MODELS.iterdir()):
            new_file(box.store, source.name.encode(), source.read_bytes())
        ingest_all(box.store)
        yield box


@pytest.fixture
def family(family_box: Box) -> Store:
    """The same, just to use."""
    return family_box.store


def report_on(store: Store, name: str) -> FileReport:
    return inspect(store, store.namespace.lookup(ROOT, name.encode()))


def sharers(shared_with: tuple[Sharer, ...]) -> set[tuple[str, str | None]]:
    return {(each.path, each.tensor) for each in shared_with}


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
    before = family.statistics(0).stored_bytes
    family.namespace.unlink(ROOT, b"base.onnx")
    collect(family)
    assert before - family.statistics(0).stored_bytes == report.own_bytes


def test_plain_file(opened: Store) -> None:
    """A file without tensors has chunks all the same."""
    report = inspect(opened, stored_file(opened, b"x", noise(2 * CHUNK + 5)))
    assert (report.tensors, report.chunks, report.path) == ((), 3, "/x")
    assert report.forms == (FormShare("plain", 2 * CHUNK + 5, 2 * CHUNK + 5),)


def test_empty_file(opened: Store) -> None:
    """An empty file consists of nothing."""
    report = inspect(opened, new_file(opened, b"x"))
    assert (report.size, report.forms, report.chunks) == (0, (), 0)


# -- with whom it is shared


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

    def watched(index: Index, table: Table, *bounds: bytes) -> Iterator[Row]:
        for row in pages(index, table, *bounds):
            if table is Table.EXTENTS:
                seen.append(InodeNumber(pair_of(row[0])[0]))
            yield row

    monkeypatch.setattr(Index, "pages", watched)
    inspect(opened, alone)
    assert set(seen) == {alone}
    seen.clear()
    assert [each.path for each in inspect(opened, two).shared_with] == ["/one"]
    assert max(seen) == two


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


# -- what is derived


def test_bases(opened: Store) -> None:
    """Of each tensor, what it derives from is named: by file and tensor, or as held by no file."""
    whole, held = noise(CHUNK, 1), noise(CHUNK, 2)
    base = stored_file(opened, b"base", model_of(noise(500, 3), whole))
    gone = stored_file(opened, b"gone", held)
    model = model_of(whole[:3000] + held[:1000], whole[5:2005], held[7:2007], noise(90, 4))
    top = stored_file(opened, b"top", model)
    start, size = len(model) - 8090, opened.contents.node(base).size
    chunks = [chunk_at(opened, top, start + at) for at in (0, 4000, 6000)]
    low, high = chunk_at(opened, base, size - CHUNK), chunk_at(opened, gone)
    derive(opened, chunks[0], (low, 0, 3000), (high, 0, 1000))
    derive(opened, chunks[1], (low, 5, 2000))
    derive(opened, chunks[2], (high, 7, 2000))
    opened.namespace.unlink(ROOT, b"gone")
    collect(opened)
    assert content_of(opened, top) == model
    report = inspect(opened, top)
    named, nobody = Base("/base", "t1", 4000), Base(None, None, 4000)
    assert set(report.tensors[0].derived_from) == {named, nobody}
    assert report.tensors[1].derived_from == (dataclasses.replace(named, bytes=2000),)
    assert report.tensors[2].derived_from == (dataclasses.replace(nobody, bytes=2000),)
    assert report.tensors[3].derived_from == ()
    assert [form.form for form in report.tensors[1].forms] == ["gather"]
    assert sum(form.stored_bytes for form in report.forms) == report.stored_bytes < 2000
    assert inspect(opened, base).tensors[1].derived_from == ()


def test_a_file_may_be_its_own_base(opened: Store) -> None:
    """A tensor that derives from another of the same file names that one."""
    model = model_of(noise(4000, 1), noise(4000, 1)[:3000])
    inode = stored_file(opened, b"model", model)
    size = len(model)
    base, chunk = chunk_at(opened, inode, size - 7000), chunk_at(opened, inode, size - 3000)
    derive(opened, chunk, (base, 0, 3000))
    report = inspect(opened, inode)
    assert report.tensors[1].derived_from == (Base("/model", "t0", 3000),)
    assert report.shared_bytes == 0


def test_what_others_derive_from_is_not_freed(opened: Store) -> None:
    """What stays for the sake of other files when one goes is not called its own."""
    inode = stored_file(opened, b"base", noise(2 * CHUNK))
    part = stored_file(opened, b"part", noise(2 * CHUNK)[: CHUNK - 1])
    derive(opened, chunk_at(opened, part), (chunk_at(opened, inode), 0, CHUNK - 1))
    collect(opened, live_min=2)
    report = inspect(opened, inode)
    assert (report.own_bytes, report.shared_bytes) == (CHUNK, CHUNK)
    before = opened.statistics(0).stored_bytes
    opened.namespace.unlink(ROOT, b"base")
    collect(opened)
    assert before - opened.statistics(0).stored_bytes == report.own_bytes
