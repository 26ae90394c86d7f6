"""The bytes of files: in chunks or staged, with holes, damaged, in stores of every format."""

import errno
import io
import json
import os
import pickle
import random
import shutil
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import modelfs
from modelfs.errors import CorruptChunk, LostBytes, NotFound
from modelfs.store.disk.descriptors import Descriptor
from modelfs.store.files import parallel, window_file
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store
from tests.support.byte_damage import read, walk
from tests.support.filled_reader import Make
from tests.support.golden_stores import GOLDENS, golden_store
from tests.support.run_jobs import ingest_all
from tests.support.sample_store import BASE, copy_of
from tests.support.stores import (
    CHUNK,
    new_file,
    noise,
    overwrite,
    small_windows,
    stored_file,
)
from tests.support.writer_process import writer_of

DATA = noise(10 * CHUNK + 100)


def test_any_part_of_a_file(make: Make) -> None:
    """Bytes are where they are asked for: fewer at the end, none behind it, all without a size."""
    file = make(lambda store: stored_file(store, b"file", DATA))["file"]
    assert (file.path, file.size, file.format) == ("file", len(DATA), "plain")
    assert file.pread() == DATA
    for offset, size in ((0, 0), (0, 1), (1, CHUNK), (CHUNK - 1, 2), (5000, 1 << 62)):
        assert file.pread(offset=offset, size=size) == DATA[offset : offset + size]
    for offset in (len(DATA) - 1, len(DATA), len(DATA) + 1, 1 << 62, 1 << 63, 1 << 80):
        assert file.pread(offset=offset) == DATA[offset:]
        assert file.pread(offset=offset, size=1 << 80) == DATA[offset:]
        buffer = bytearray(b"x" * 10)
        assert file.read_into(offset, buffer) == len(DATA[offset:])
        assert buffer == DATA[offset:].ljust(10, b"x")
    for offset, size in ((-1, 1), (0, -1)):
        with pytest.raises(ValueError, match="negative"):
            file.pread(offset=offset, size=size)
    with pytest.raises(TypeError, match="positional"):
        file.pread(10, 0)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="negative"):
        file.read_into(-1, bytearray(1))


def test_empty_files(make: Make) -> None:
    """An empty file has no bytes, no chunks and no tensors."""
    file = make(lambda store: new_file(store, b"empty"))["empty"]
    assert file.pread() == file.pread(offset=5, size=5) == b""
    assert (file.size, dict(file.tensors)) == (0, {})
    assert file.report().chunks == 0


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("ingested", [False, True])
def test_holes_and_staged_bytes(
    monkeypatch: pytest.MonkeyPatch, make: Make, *, ingested: bool, threads: int
) -> None:
    """All parts of a file read as those of a plain file do."""
    small_windows(monkeypatch, 4 * CHUNK)
    monkeypatch.setattr(parallel, "PARALLEL_MIN", 3 * CHUNK)
    monkeypatch.setattr(parallel, "PIECE", CHUNK // 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(threads))
    rng = random.Random(1)
    whole = bytearray(40 * CHUNK)
    parts = [(rng.randrange(30 * CHUNK), rng.randrange(3 * CHUNK)) for _ in range(12)]

    def fill(store: Store) -> None:
        inode = new_file(store, b"file")
        for number, (offset, size) in enumerate(parts):
            whole[offset : offset + size] = data = rng.randbytes(size)
            store.writes.write(inode, offset, data)
            if number == 7:
                ingest_all(store)
        store.writes.truncate(inode, 20 * CHUNK + 5)
        whole[20 * CHUNK + 5 :] = bytes(len(whole) - 20 * CHUNK - 5)
        store.writes.truncate(inode, 40 * CHUNK)
        if ingested:
            ingest_all(store)

    file = make(fill)["file"]
    assert file.pread() == whole
    buffer = np.ones(len(whole), np.uint8)
    assert file.read_into(0, buffer) == len(whole)
    assert buffer.tobytes() == whole
    for _ in range(200):
        offset, size = rng.randrange(len(whole) + 10), rng.randrange(len(whole))
        assert file.pread(offset=offset, size=size) == whole[offset : offset + size]


def test_huge_files_cost_nothing_but_what_is_read(make: Make) -> None:
    """Ten bytes behind a hole of a petabyte are read as quickly as any ten."""

    def fill(store: Store) -> None:
        inode = new_file(store, b"huge")
        store.writes.write(inode, 1 << 50, b"0123456789")

    file = make(fill)["huge"]
    assert file.pread(offset=(1 << 50) - 2, size=20) == b"\0\x000123456789"
    assert file.pread(offset=1 << 40, size=5) == bytes(5)
    with pytest.raises(MemoryError):
        file.pread()


def test_a_file_of_many_extents(make: Make) -> None:
    """A file whose every extent is a chunk of its own is read as any other."""
    data = noise(3000 * 16)

    def fill(store: Store) -> None:
        inode = new_file(store, b"file")
        for at in range(0, len(data), 16):
            store.writes.write(inode, 2 * at, data[at : at + 16])
        ingest_all(store)

    file = make(fill)["file"]
    whole = np.frombuffer(file.pread().ljust(2 * len(data), b"\0"), "V16")[::2]
    assert whole.tobytes() == data
    assert file.report().chunks > 1


def test_small_reads_take_little_memory(make: Make) -> None:
    """Ten bytes of a long file take a chunk, and not the file."""
    data = noise(8 << 20)
    file = make(lambda store: stored_file(store, b"file", data))["file"]
    file.pread(size=10)
    tracemalloc.start()
    assert file.pread(offset=4 << 20, size=10) == data[4 << 20 : (4 << 20) + 10]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300_000


# -- buffers


@pytest.mark.parametrize(
    "buffer",
    [
        bytearray(100),
        memoryview(bytearray(100)),
        memoryview(bytearray(100)).cast("B", (10, 10)),
        np.zeros(100, np.uint8),
        np.zeros((5, 5), "<f4"),
        np.zeros((5, 5, 2), ">i2"),
        np.zeros(50, "V2"),
        np.array(b"x" * 100),
        np.asfortranarray(np.zeros((100, 1), np.uint8)),
    ],
)
def test_buffers_that_are_filled(make: Make, buffer: object) -> None:
    """A writable, contiguous buffer of any type and shape is filled."""
    file = make(lambda store: stored_file(store, b"file", DATA))["file"]
    assert file.read_into(7, buffer) == 100
    assert bytes(memoryview(buffer).cast("B")) == DATA[7:107]  # type: ignore[arg-type]


def test_buffers_of_foreign_dtypes(make: Make) -> None:
    """A numpy array of BF16 is filled, although Python's buffers have no such type."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    file = make(lambda store: stored_file(store, b"file", DATA))["file"]
    array = np.zeros((3, 5), ml_dtypes.bfloat16)
    assert file.read_into(0, array) == 30
    assert array.tobytes() == DATA[:30]


@pytest.mark.parametrize("buffer", [np.zeros((0, 5)), np.zeros((3, 0), "<i2"), bytearray()])
def test_empty_buffers(make: Make, buffer: object) -> None:
    """Nothing is read into nothing."""
    assert make(lambda store: stored_file(store, b"file", DATA))["file"].read_into(0, buffer) == 0


@pytest.mark.parametrize(
    "buffer",
    [
        b"bytes",
        np.zeros((4, 4))[:, ::2],
        np.zeros((4, 4)).T,
        memoryview(bytearray(10))[::2],
        np.frombuffer(b"abcd", np.uint8),
        "text",
        5,
        None,
    ],
)
def test_buffers_that_cannot_be_filled(make: Make, buffer: object) -> None:
    """A buffer that is read-only or not contiguous, or no buffer, is a TypeError."""
    file = make(lambda store: stored_file(store, b"file", DATA))["file"]
    with pytest.raises(TypeError):
        file.read_into(0, buffer)


# -- as Python's own files are


def test_lines_of_a_stream(make: Make) -> None:
    """A stream is buffered: many small reads are few calls of the store."""
    lines = [b"%d\n" % number for number in range(20_000)]
    file = make(lambda store: stored_file(store, b"file", b"".join(lines)))["file"]
    calls: list[int] = []
    read_into = file.read_into

    def counted(offset: int, buffer: object) -> int:
        calls.append(offset)
        return read_into(offset, buffer)

    file.read_into = counted  # type: ignore[method-assign]
    with file.open() as stream:
        assert stream.readlines() == lines
    assert len(calls) < 20
    with file.open(buffering=1 << 20) as stream:
        assert stream.peek(6)[:6] == b"0\n1\n2\n"
    with pytest.raises(ValueError, match="positive"):
        file.open(buffering=-1)


def test_a_stream(make: Make) -> None:
    """A stream reads and seeks as an open file does, and has the same position."""
    file = make(lambda store: stored_file(store, b"file", DATA))["file"]
    plain = io.BytesIO(DATA)
    rng = random.Random(1)
    with file.open(buffering=0) as stream, file.open(buffering=100) as buffered:
        assert (stream.readable(), stream.seekable(), stream.writable()) == (True, True, False)
        for _ in range(100):
            offset, whence = rng.choice(((rng.randrange(len(DATA)), 0), (0, 1), (-50, 2), (10, 1)))
            size = rng.choice((0, 1, 99, 5000, -1))
            assert stream.seek(offset, whence) == buffered.seek(offset, whence)
            assert plain.seek(stream.tell()) == stream.tell()
            assert stream.read(size) == buffered.read(size) == plain.read(size)
            assert stream.tell() == buffered.tell() == plain.tell()
        buffer = bytearray(10)
        stream.seek(3)
        assert stream.readinto(buffer) == 10
        assert buffer == DATA[3:13]
        for offset, whence in ((-1, 0), (0, 3), (-len(DATA) - 1, 2)):
            with pytest.raises(ValueError, match=r"seek to|whence"):
                stream.seek(offset, whence)
        with pytest.raises(io.UnsupportedOperation):
            stream.write(b"x")
    for call in (stream.read, stream.readall, stream.tell, lambda: stream.seek(0)):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_programs_that_take_files(make: Make) -> None:
    """Json and numpy read from a stream."""
    saved = io.BytesIO()
    np.save(saved, np.arange(1000))

    def fill(store: Store) -> None:
        new_file(store, b"config.json", b'{"layers": 4}')
        stored_file(store, b"array.npy", saved.getvalue())

    reader = make(fill)
    with reader["config.json"].open() as stream:
        assert json.load(stream) == {"layers": 4}
    with reader["array.npy"].open() as stream:
        assert np.array_equal(np.load(stream), np.arange(1000))


# -- a store that is put back from a backup


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_backup_is_put_back(path: Path, tmp_path: Path, *, is_replaced: bool) -> None:
    """A file that is gone with its history is not found, and new ones have their own bytes."""
    # Compressible, so they are decoded into the cache.
    old, lost, new, newer = (noise(CHUNK, seed)[:100] * 200 for seed in range(4))
    with Store(path) as store:
        stored_file(store, b"kept", old)
    shutil.copytree(path, tmp_path / "backup")
    with writer_of(path) as writer:
        writer(f"stored_file(store, b'lost', {lost!r})")
        writer(f"store.writes.write({ROOT + 1}, 0, {lost!r}); ingest_all(store)")
    reader = modelfs.open(path)
    kept, gone = reader["kept"], reader["lost"]
    assert kept.pread() == gone.pread() == lost
    pickled = pickle.dumps(gone)
    if is_replaced:
        shutil.rmtree(path)
    shutil.copytree(tmp_path / "backup", path, dirs_exist_ok=True)
    with writer_of(path) as writer:
        writer(f"stored_file(store, b'new', {new!r})")
        writer(f"store.writes.write({ROOT + 1}, 0, {newer!r}); ingest_all(store)")
    with modelfs.open(path) as opened, reader:
        for current in (reader, opened):
            assert current["new"].pread() == new
            assert current["kept"].pread() == newer
            assert "lost" not in current
        assert kept.pread() == newer
        with pytest.raises(NotFound, match="lost was removed"):
            gone.pread()
        with pytest.raises(NotFound, match="lost was removed"):
            pickle.loads(pickled).pread()


def test_reads_of_staged_bytes_keep_no_descriptor(make: Make) -> None:
    """Any number of reads of a file that is not in chunks leaves no open file behind."""
    file = make(lambda store: new_file(store, b"staged", DATA))["staged"]
    file.pread(size=10)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        assert file.pread(offset=5, size=10) == DATA[5:15]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_reader_asks_for_a_failed_write_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Staged bytes that the kernel failed to write are no content, although no row says so yet."""
    with Store(path) as store:
        new_file(store, b"staged", DATA)
    monkeypatch.setattr(window_file, "take_error", lambda _: errno.EIO)
    with modelfs.open(path) as reader, pytest.raises(LostBytes):
        reader["staged"].pread()


def test_lost_bytes_are_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that the disk failed to write raise an error of their own, which names the file."""

    def fails(_: Descriptor) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = Store(path)
    inode = new_file(store, b"f", DATA)
    store.flush(inode)
    store.writes.write(inode, 100, DATA[:200])
    monkeypatch.setattr(window_file, "sync", fails)
    with pytest.raises(LostBytes, match="200 bytes written to /f were lost"):
        store.close()
    with modelfs.open(path) as reader:
        file = reader["f"]
        with pytest.raises(modelfs.LostBytes, match="f: bytes were lost: the disk failed to write"):
            file.pread()
        assert file.pread(size=100) == DATA[:100]


# -- stores of every kind


def unless_lost(read: Callable[..., bytes | None], *arguments: object) -> bytes | None:
    """Return the bytes that a call reads, None if the disk has lost some of them."""
    try:
        return read(*arguments)
    except LostBytes:
        return None


@pytest.mark.parametrize("version", GOLDENS)
def test_stores_of_old(tmp_path: Path, version: int) -> None:
    """A store of an older format is read as it is, and not changed."""
    path = golden_store(tmp_path, version)
    with Store(path, read_only=True) as store:
        expected = {
            os.fsdecode(name[1:]): unless_lost(read, store, inode)
            for name, inode in walk(store.dentries).items()
            if stat.S_ISREG(store.inodes.get(InodeNumber(inode)).mode)
        }
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with modelfs.open(path) as reader:
        found = {file.path: unless_lost(file.pread) for file in reader.files()}
        tensors = [tensor for file in reader.files() for tensor in file.tensors.values()]
        assert all(len(tensor.bytes()) == tensor.nbytes for tensor in tensors)
        assert reader.statistics().files >= len(found)
        for file in reader.files():
            assert sum(form.bytes for form in file.report().forms) == file.size
    assert found == expected
    assert len(found) >= 3
    assert tensors
    after = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    changed = {file.name for file in after if before.get(file) != after[file]}
    assert changed <= {"lock.mdb"}


def test_a_store_without_a_lock_file(make: Make, path: Path) -> None:
    """A reader makes no file: the lock file would be its own, and keep out the store's owner."""
    make(lambda store: stored_file(store, b"file", DATA)).close()
    (path / "index" / "lock.mdb").unlink()
    before = set(path.rglob("*"))
    with Store(path, read_only=True) as store:
        assert store.inventory.statistics().files == 1
    with modelfs.open(path) as reader:
        file = reader["file"]
        assert file.pread() == DATA
        assert reader.statistics().files == 1
        assert set(path.rglob("*")) == before
        with writer_of(path):
            assert (path / "index" / "lock.mdb").exists()
            assert file.pread() == DATA


def test_a_damaged_chunk(make: Make, path: Path) -> None:
    """Bytes of a damaged chunk are an error, and never returned; all others are read."""
    reader = make(lambda store: stored_file(store, b"file", DATA))
    pack = path / "packs" / "00000001.pack"
    content = pack.read_bytes()
    overwrite(pack, content.index(DATA[CHUNK : CHUNK + 50]) + 10, b"damage")
    file = reader["file"]
    for offset, size in ((0, len(DATA)), (CHUNK, 1), (CHUNK + 5, 10 * CHUNK), (CHUNK - 1, 2)):
        with pytest.raises(CorruptChunk, match=r"do not match their checksum, in file$"):
            file.pread(offset=offset, size=size)
        with pytest.raises(CorruptChunk, match=r"in file$"):
            file.read_into(offset, bytearray(size))
    assert file.pread(size=CHUNK) == DATA[:CHUNK]
    assert file.pread(offset=2 * CHUNK) == DATA[2 * CHUNK :]
    assert file.report().size == len(DATA)
    pack.write_bytes(content)
    assert file.pread() == DATA


def test_damage_on_several_threads(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread's error is the call's, and ends the others."""
    monkeypatch.setattr(parallel, "PARALLEL_MIN", CHUNK)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    reader = make(lambda store: stored_file(store, b"file", DATA))
    pack = path / "packs" / "00000001.pack"
    content = pack.read_bytes()
    overwrite(pack, content.index(DATA[5 * CHUNK : 5 * CHUNK + 50]), b"damage")
    for _ in range(20):
        with pytest.raises(CorruptChunk):
            reader["file"].pread()
        with pytest.raises(CorruptChunk):
            reader["file"].read_into(0, bytearray(len(DATA)))
    pack.write_bytes(content)


def test_a_pack_that_is_missing(make: Make, path: Path) -> None:
    """Chunks of a missing pack are damaged, and files of other packs are read."""

    def fill(store: Store) -> None:
        stored_file(store, b"lost", DATA)
        store.packs.seal(store.packs._tail.pack)  # type: ignore[union-attr]
        stored_file(store, b"there", noise(5000, 5))

    reader = make(fill)
    pack = path / "packs" / "00000001.pack"
    content = pack.read_bytes()
    for _ in range(2):  # before and after its chunks were verified
        pack.unlink()
        with pytest.raises(CorruptChunk, match="pack 1 is missing, in lost"):
            reader["lost"].pread()
        pack.write_bytes(content)
        assert reader["lost"].pread() == DATA
    pack.unlink()
    assert reader["there"].pread() == noise(5000, 5)
    pack.write_bytes(content)
    assert reader["lost"].pread() == DATA


def test_a_store_in_which_every_table_has_a_row(filled: Path, tmp_path: Path) -> None:
    """Every file is read, or raises that its bytes are lost."""
    path = copy_of(filled, tmp_path)
    with modelfs.open(path) as reader:
        for file in reader.files():
            report = file.report()
            assert report.size == file.size
            tensors = {tensor.name: tensor for tensor in file.tensors.values()}
            assert set(tensors) == {tensor.name for tensor in report.tensors}
            data = file.pread()
            for tensor in tensors.values():
                assert tensor.bytes() == data[tensor.offset :][: tensor.nbytes]
                assert tensor.report().start == tensor.offset
                assert tensor.derivation == tensor.report().derived_from
        assert reader[BASE.decode()].tensors


# -- beside a writer


def test_reading_beside_a_writer(make: Make, path: Path) -> None:
    """A file is as it was last committed, in whatever way it is changed."""
    reader = make(lambda store: stored_file(store, b"file", DATA))
    file = reader["file"]
    with writer_of(path) as writer:
        writer("store.writes.write(2, 5, b'x' * 5000)")
        assert file.pread() == DATA
        writer("store.flush(2); store.commit()")
        expected = DATA[:5] + b"x" * 5000 + DATA[5005:]
        assert file.pread() == expected
        writer("store.writes.truncate(2, 6000); store.flush(2); store.commit()")
        assert file.pread() == expected[:6000]
        writer("store.writes.truncate(2, 9000); store.flush(2); store.commit()")
        assert file.pread() == expected[:6000] + bytes(3000)
        writer("ingest_all(store); collect(store, 1.0)")
        assert file.pread() == expected[:6000] + bytes(3000)
        assert reader.statistics().logical_bytes == file.size == 9000


# -- pickles


def test_pickles(make: Make) -> None:
    """Readers and files are pickled as their paths, in few bytes; those of closed ones are open."""
    reader = make(lambda store: stored_file(store, b"file", DATA))
    file = reader["file"]
    assert pickle.loads(pickle.dumps(reader))["file"].pread() == DATA
    loaded = pickle.loads(pickle.dumps(file))
    assert (loaded.path, loaded.size, repr(loaded)) == ("file", len(DATA), repr(file))
    assert len(pickle.dumps(file)) < 1000
    assert eval(repr(file), {"modelfs": modelfs}).pread() == DATA
    reader.close()
    assert pickle.loads(pickle.dumps(reader))["file"].pread() == DATA
    assert pickle.loads(pickle.dumps(file)).pread() == DATA


def test_files_are_equal_by_their_store_and_inode(make: Make) -> None:
    """A file is one file, by whatever path and reader; paths are given in a normal form."""
    reader = make(lambda store: (new_file(store, b"a", b"a"), new_file(store, b"b", b"b")))
    assert reader["a"] == reader["./a"] == reader["//a"]
    assert reader["./a"].path == "a"
    assert len({reader["a"], reader["a"], reader["b"]}) == 2
    with modelfs.open(reader.folder) as other:
        assert other["a"] == reader["a"] != other["b"]
    with pytest.raises(modelfs.NotADirectory, match="a is a file, and not a folder"):
        reader["a/"]
    with pytest.raises(modelfs.IsADirectory, match="/ is a folder"):
        reader["/"]
    assert reader["a"] != "a"


def test_a_closed_reader_is_not_entered(make: Make) -> None:
    """`with` on a closed reader raises the error of its calls."""
    reader = make(lambda store: new_file(store, b"a", b"a"))
    reader.close()
    with pytest.raises(ValueError, match="is closed"), reader:
        pass


def test_opening_a_stream_of_a_closed_reader(make: Make) -> None:
    """The error is that of reading, and comes at once; so does that of a removed file."""
    reader = make(lambda store: new_file(store, b"a", b"a"))
    file = reader["a"]
    reader.close()
    for buffering in (0, 100):
        with pytest.raises(ValueError, match="is closed"):
            file.open(buffering=buffering)
