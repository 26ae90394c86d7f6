"""Complete maps: a hole is read as zeros only in a file that has all of its extents."""

from collections.abc import Callable
from pathlib import Path

import pytest

from modelfs.errors import CorruptChunk, CorruptIndex
from modelfs.jobs.check.fsck import check
from modelfs.jobs.inspect.file import state_of
from modelfs.jobs.inspect.layout import HOLE, MISSING, parts_of
from modelfs.jobs.repair.run import repair
from modelfs.store.chunks import verified
from modelfs.store.files import complete_maps
from modelfs.store.index.tables import ROOT, InodeNumber, Table, pair_key
from modelfs.store.store import Store
from tests.support.damaged_rows import raw_rows
from tests.support.golden_stores import golden_store
from tests.support.run_jobs import drain, ingest_all
from tests.support.stores import CHUNK, Box, content_of, durable, new_store, noise, stored_file

DATA = noise(3 * CHUNK)
MISSING_EXTENT = pytest.raises(CorruptIndex, match=f"are missing: {CHUNK} bytes")


def staged_elsewhere(store: Store, inode: InodeNumber) -> bytes:
    store.writes.write(inode, 5, b"staged")
    return DATA[:5] + b"staged" + DATA[11:]


def sparse(store: Store, inode: InodeNumber) -> bytes:
    store.writes.write(inode, 9 * CHUNK, b"end")
    ingest_all(store)
    return DATA.ljust(9 * CHUNK, b"\0") + b"end"


def lengthened(store: Store, inode: InodeNumber) -> bytes:
    store.writes.truncate(inode, 5 * CHUNK)
    ingest_all(store)
    return DATA.ljust(5 * CHUNK, b"\0")


Make = Callable[[Store, InodeNumber], bytes]
every_case = pytest.mark.parametrize("make", [staged_elsewhere, sparse, lengthened])


def made(folder: Path, make: Make) -> tuple[Path, InodeNumber, bytes]:
    """Return a store that is not open, with one file, and the file's content."""
    path = new_store(folder)
    store = Store(path)
    inode = stored_file(store, b"f", DATA)
    content = make(store, inode)
    durable(store, inode)
    store.abandon()
    return path, inode, content


def lose_extent(path: Path, inode: InodeNumber, start: int = CHUNK) -> None:
    with raw_rows(path / "index") as rows:
        del rows[Table.EXTENTS][pair_key(inode, start)]


@every_case
@pytest.mark.parametrize("read_only", [True, False])
def test_a_lost_extent_is_no_hole(tmp_path: Path, make: Make, *, read_only: bool) -> None:
    """The bytes of a lost extent are an error, also beside a writer; those of others are read."""
    path, inode, content = made(tmp_path, make)
    lose_extent(path, inode)
    store = Store(path, read_only=read_only)
    assert store.index.rows.others_write == read_only
    for _ in range(2):
        with MISSING_EXTENT:
            store.contents.read(inode, CHUNK + 10, 10)
        with MISSING_EXTENT:
            content_of(store, inode)
    assert store.contents.read(inode, 0, CHUNK) == content[:CHUNK]
    assert store.contents.read(inode, 2 * CHUNK, CHUNK) == content[2 * CHUNK : 3 * CHUNK]
    assert [found.files for found in check(store) if found.invariant == "map-hole"] == [(b"/f",)]
    store.abandon()


@every_case
def test_a_lost_extent_is_lost_after_repair(tmp_path: Path, make: Make) -> None:
    """After repair the bytes of a lost extent are an error still, and all others are read."""
    path, inode, content = made(tmp_path, make)
    lose_extent(path, inode)
    assert repair(path, data=True).after.findings == []
    with Store(path) as store:
        assert store.contents.read(inode, 0, CHUNK) == content[:CHUNK]
        assert store.contents.read(inode, 2 * CHUNK, CHUNK) == content[2 * CHUNK : 3 * CHUNK]
        with pytest.raises(CorruptChunk):
            store.contents.read(inode, CHUNK, CHUNK)
        store.writes.write(inode, 0, content)
        ingest_all(store)
        assert content_of(store, inode) == content
        assert check(store, data=True) == []


def test_zeros_of_a_lost_extent_are_never_stored(tmp_path: Path) -> None:
    """Ingest that would merge staged bytes with those of a lost extent leaves them staged."""
    path, inode, _ = made(tmp_path, staged_elsewhere)
    lose_extent(path, inode, 0)
    store = Store(path)
    ingest_all(store)
    assert store.contents.read(inode, 5, 6) == b"staged"
    for start in (0, 11):
        with MISSING_EXTENT:
            store.contents.read(inode, start, 5)
    store.abandon()


def test_an_upgraded_store_misses_extents(tmp_path: Path) -> None:
    """A file of an older format has no sum of its extents before the upgrade, and one after it."""
    path = golden_store(tmp_path, 3)
    with Store(path, read_only=True) as store:
        models = store.namespace.lookup(ROOT, b"models")
        inode = store.namespace.lookup(models, b"one.safetensors")
        first, second = list(store.maps.overlapping(inode, 0, 1 << 20))[:2]
        content = content_of(store, inode)
    lose_extent(path, inode, second.start)
    with Store(path, read_only=True) as store:
        assert not store.contents.lacks_extents(inode)
    (tmp_path / "again").mkdir()
    path = golden_store(tmp_path / "again", 3)
    Store(path).close()
    lose_extent(path, inode, second.start)
    with Store(path, read_only=True) as store:
        assert store.contents.read(inode, 0, first.stop) == content[: first.stop]
        with pytest.raises(CorruptIndex, match="are missing"):
            store.contents.read(inode, second.start, 10)


def test_a_damaged_extent_may_be_any_hole(tmp_path: Path) -> None:
    """Where the row of an extent is damaged, no hole of the file is believed."""
    path, inode, _ = made(tmp_path, lengthened)
    with raw_rows(path / "index") as rows:
        key = pair_key(inode, CHUNK)
        rows[Table.EXTENTS][key] = bytes(len(rows[Table.EXTENTS][key]))
    with Store(path, read_only=True) as store, MISSING_EXTENT:
        store.contents.read(inode, 3 * CHUNK, CHUNK)


def test_a_file_that_is_emptied_has_a_right_sum_again(tmp_path: Path) -> None:
    """A file that lost an extent is sound once it is cut to nothing and written again."""
    path, inode, content = made(tmp_path, sparse)
    lose_extent(path, inode)
    with Store(path) as store:
        store.writes.truncate(inode, 0)
        drain(store.flusher.trim(inode))
        store.writes.write(inode, 0, DATA)
        assert sparse(store, inode) == content == content_of(store, inode)
        assert [found.invariant for found in check(store)] == ["chunk-uses"]


class Counted:
    """Counts how often the extents of a file are added up."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        patch.setattr(complete_maps, "_missing_bytes", self._missing_bytes)

    def _missing_bytes(self, *_: object) -> int:
        self.count += 1
        return 0


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def test_a_file_without_holes_pays_nothing(box: Box, sums: Counted) -> None:
    """No extents are added up for a file without holes, nor for one that has none."""
    inode = stored_file(box.store, b"f", DATA)
    staged_elsewhere(box.store, inode)
    content_of(box.store, inode)
    empty = stored_file(box.store, b"empty", b"")
    box.store.writes.truncate(empty, 9 * CHUNK)
    assert content_of(box.store, empty) == bytes(9 * CHUNK)
    box.store.writes.truncate(inode, 5)
    box.store.writes.truncate(inode, 50)
    assert box.store.contents.read(inode, 5, 45) == bytes(45)
    assert sums.count == 0


def test_a_sum_counts_for_a_minute(
    box: Box, sums: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner adds up a file's extents once, and once more a minute later."""
    inode = stored_file(box.store, b"f", DATA)
    sparse(box.store, inode)
    for _ in range(3):
        content_of(box.store, inode)
        box.store.writes.write(inode, 4 * CHUNK, b"new")
        ingest_all(box.store)
    assert sums.count == 1
    monkeypatch.setattr(verified, "TRUST_SECONDS", 0)
    assert box.store.contents.read(inode, 3 * CHUNK, 10) == bytes(10)
    assert sums.count == 2


def test_a_sum_beside_a_writer_counts_for_one_commit(
    tmp_path: Path, sums: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader beside a writer adds up again after another commit."""
    path, inode, content = made(tmp_path, sparse)
    with Store(path, read_only=True) as store:
        for commit in (1, 1, 2, 2):
            monkeypatch.setattr(store.index.rows, "snapshot_id", lambda commit=commit: commit)
            assert content_of(store, inode) == content
        assert sums.count == 2


def test_extents_of_changes_in_memory_are_not_missed(box: Box) -> None:
    """A file whose map has changed since the last commit is compared as of that commit."""
    inode = stored_file(box.store, b"f", DATA)
    content = sparse(box.store, inode)
    with box.store.index.change():
        box.store.maps.replace(inode, 0, 2 * CHUNK, ())
    assert content_of(box.store, inode) == bytes(2 * CHUNK) + content[2 * CHUNK :]
    box.store.contents.empty_caches()
    assert not box.store.contents.lacks_extents(inode)


def test_inspect_calls_it_missing(tmp_path: Path) -> None:
    """A hole of a file with a lost extent is shown as missing; one behind a truncation is none."""
    path, inode, _ = made(tmp_path, lengthened)
    with Store(path) as store:
        assert parts_of(store, state_of(store, inode))[-1].forms[HOLE] == 2 * CHUNK
    lose_extent(path, inode)
    store = Store(path)
    store.writes.truncate(inode, 4 * CHUNK)
    store.writes.truncate(inode, 9 * CHUNK)
    forms = parts_of(store, state_of(store, inode))[-1].forms
    assert (forms[MISSING], forms[HOLE]) == (2 * CHUNK, 5 * CHUNK)
    store.abandon()
