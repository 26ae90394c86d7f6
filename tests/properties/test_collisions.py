"""Colliding hashes: every file still has its own bytes."""

import random
from collections.abc import Callable
from functools import partial
from typing import Final

import pytest
import xxhash

from modelfs.errors import CorruptChunk
from modelfs.formats.layout import Format
from modelfs.jobs.ingest.copies import HEAD, SIZE_MIN
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.packs import segment as segment_module
from modelfs.store.store import Store
from tests.fuzz import formats
from tests.support.run_jobs import collect, drain, ingest_all
from tests.support.stores import (
    CHUNK,
    Box,
    content_of,
    model_of,
    new_file,
    noise,
    overwrite,
    pack_path,
    stored_file,
)

TEXT: Final = b"some text that is said again and again. " * 100

# Of equal and other sizes, alike in parts, models and others, coded and plain.
CONTENTS: Final = (
    noise(2 * CHUNK, 1),
    noise(2 * CHUNK, 2),
    noise(CHUNK, 1) + noise(CHUNK, 2),
    noise(CHUNK, 3),
    noise(CHUNK, 3)[:-1] + b"x",
    bytes(2 * CHUNK),
    TEXT,
    TEXT.upper(),
    model_of(noise(CHUNK, 1), noise(CHUNK, 2), noise(300, 3)),
    model_of(noise(CHUNK, 2), noise(CHUNK, 1), noise(300, 4)),
    b"",
    b"x",
    b"y",
)


def of_few_bits(bits: int) -> Callable[[bytes, int], bytes]:
    """Return a hash function whose results differ in a few bits only."""
    real = xxhash.xxh3_128_digest
    mask = (1 << bits) - 1

    def digest(data: bytes, seed: int = 0) -> bytes:
        return bytes([real(data, seed)[0] & mask]) + bytes(15)

    return digest


@pytest.fixture(params=[0, 1, 2], ids="{} bits".format, autouse=True)
def colliding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give all contents the same hash, or one of two or of four."""
    monkeypatch.setattr(xxhash, "xxh3_128_digest", of_few_bits(request.param))


class History:
    """Operations on files of a store, and the expected contents."""

    def __init__(self, box: Box, seed: int) -> None:
        self._box = box
        self._random = random.Random(seed)
        self._files: dict[bytes, tuple[InodeNumber, bytearray]] = {}

    def step(self) -> None:
        steps = [self._write, self._write, self._change, self._cut, self._remove]
        steps += [partial(ingest_all, self._box.store), self._collect_and_reopen]
        self._random.choice(steps)()

    def check(self) -> None:
        for inode, content in self._files.values():
            assert content_of(self._box.store, inode) == content

    def _write(self) -> None:
        name, data = b"%d" % self._random.randrange(12), self._random.choice(CONTENTS)
        self._remove_name(name)
        self._files[name] = new_file(self._box.store, name, data), bytearray(data)

    def _change(self) -> None:
        if self._files:
            inode, content = self._random.choice(list(self._files.values()))
            start = self._random.randrange(len(content) + 1)
            data = self._random.choice(CONTENTS)[: self._random.choice((1, 100, CHUNK))]
            self._box.store.writes.write(inode, start, data)
            content[start : start + len(data)] = data

    def _cut(self) -> None:
        if self._files:
            inode, content = self._random.choice(list(self._files.values()))
            size = self._random.randrange(len(content) + 1)
            self._box.store.writes.truncate(inode, size)
            del content[size:]

    def _remove(self) -> None:
        if self._files:
            self._remove_name(self._random.choice(list(self._files)))

    def _remove_name(self, name: bytes) -> None:
        if self._files.pop(name, None) is not None:
            inode = self._box.store.namespace.unlink(ROOT, name)
            drain(self._box.store.orphans.remove(inode))

    def _collect_and_reopen(self) -> None:
        ingest_all(self._box.store)
        collect(self._box.store)
        self._box.reopen()


@pytest.mark.parametrize("seed", range(4))
def test_files_keep_their_bytes(box: Box, seed: int) -> None:
    """Files that are written, changed, cut, removed and collected keep their own bytes."""
    history = History(box, seed)
    for _ in range(60):
        history.step()
        history.check()


@pytest.mark.parametrize("segment", [1, 3 * CHUNK, 1 << 20])
def test_chunks_of_one_writer(opened: Store, monkeypatch: pytest.MonkeyPatch, segment: int) -> None:
    """The same holds in one segment, and in segments that are not published."""
    monkeypatch.setattr(segment_module, "SEGMENT_SIZE", segment)
    contents = [noise(CHUNK, seed) for seed in range(6)]
    whole = b"".join([*contents, *reversed(contents)])
    inode = stored_file(opened, b"f", whole)
    assert content_of(opened, inode) == whole
    assert opened.inventory.statistics().chunks == 6


def damage(store: Store, inode: InodeNumber) -> None:
    """Flip a bit of a file's first chunk."""
    extent = next(iter(store.maps.within(inode, 0, 1)))
    record = store.chunks.record(extent.chunk)
    path = pack_path(store.packs, record.pack)
    overwrite(path, record.offset, bytes([path.read_bytes()[record.offset] ^ 1]))


OTHERS: Final = [
    pytest.param(noise(CHUNK), noise(CHUNK, 1), id="plain"),
    pytest.param(TEXT, TEXT.upper(), id="coded"),
]


@pytest.mark.parametrize(("mine", "others"), OTHERS)
def test_a_damaged_chunk_is_not_replaced_by_anothers(box: Box, mine: bytes, others: bytes) -> None:
    """Content of the same size and hash does not heal a damaged chunk; its own does."""
    inode = stored_file(box.store, b"mine", mine)
    damage(box.store, inode)
    box.store.abandon()
    box.store = Store(box.path)
    other = stored_file(box.store, b"others", others)
    assert content_of(box.store, other) == others
    with pytest.raises(CorruptChunk):
        content_of(box.store, inode)
    again = stored_file(box.store, b"again", mine)
    for each, content in ((inode, mine), (again, mine), (other, others)):
        assert content_of(box.store, each) == content


@pytest.mark.parametrize(("mine", "others"), OTHERS)
def test_a_lost_pack_is_not_filled_with_anothers(box: Box, mine: bytes, others: bytes) -> None:
    """The same holds if the chunk's bytes are lost."""
    inode = stored_file(box.store, b"mine", mine)
    box.store.abandon()
    pack_path(box.store.packs, 1).unlink()
    box.store = Store(box.path)
    other = stored_file(box.store, b"others", others)
    assert content_of(box.store, other) == others
    with pytest.raises(CorruptChunk):
        content_of(box.store, inode)
    stored_file(box.store, b"again", mine)
    assert content_of(box.store, inode) == mine
    collect(box.store)  # the lost pack has no row any more


def test_checksums_that_collide_too(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """With colliding checksums, too, sound chunks are compared by their bytes."""
    monkeypatch.setattr(xxhash, "xxh3_64_intdigest", lambda data, seed=0: 7)
    history = History(box, 5)
    for _ in range(60):
        history.step()
        history.check()


def test_files_that_look_alike(box: Box) -> None:
    """With colliding hashes, files of equal sizes and cuts keep their own bytes."""
    size = SIZE_MIN + 3 * CHUNK
    assert size > HEAD
    named, other = noise(size), noise(size, 1)
    store = box.store
    new_file(store, b"model.onnx", formats.model_of(formats.external(b"named", 5, size - 9)))
    files = {new_file(store, b"named", named): named, new_file(store, b"other", other): other}
    ingest_all(store)
    for inode, content in files.items():
        assert content_of(store, inode) == content
    assert store.inodes.get(next(iter(files))).format is Format.ONNX_DATA
