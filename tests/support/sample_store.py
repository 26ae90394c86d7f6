"""A small store with a row in every table, to be damaged."""

import shutil
from pathlib import Path
from typing import Final

from modelfs.jobs.check.findings import Finding
from modelfs.jobs.check.fsck import check
from modelfs.jobs.optimize.similarity import SimilarityIndex
from modelfs.sketches.sketch import Sampler
from modelfs.store.files.inode_totals import add_to_totals
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.chunk_records import Chunk, PackRow
from modelfs.store.index.name_records import Dentry
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent, Inode, WindowRanges
from modelfs.store.index.tables import (
    ROOT,
    ChunkId,
    InodeNumber,
    PackId,
    Table,
    number_key,
    number_of,
    pair_key,
)
from modelfs.store.store import Store
from tests.support.derived_chunks import chunk_at, derive
from tests.support.paths import MODELS
from tests.support.run_jobs import drain, ingest_all
from tests.support.stores import FOLDER, ME, model_of, new_file, noise, pack_path

CHUNK: Final = 64 << 10

BASE: Final = b"/base.safetensors"
LORA: Final = b"/lora-merged.safetensors"
ONNX: Final = b"/base-external.onnx"
DATA: Final = b"/base-external.onnx.data"
SHARERS: Final = (BASE, LORA, DATA)  # of the word embeddings
BOTTOM: Final = b"/bottom.safetensors"
TOP: Final = b"/top.safetensors"  # its second tensor derives from one of BOTTOM, its third
LOWEST: Final = noise(CHUNK, 11)  # the first tensor of BOTTOM
HELD: Final = noise(CHUNK, 13)  # from this, which is in no file
WORDS: Final = "embeddings.word_embeddings.weight"
QUERY: Final = "encoder.layer.5.attention.self.query.weight"
TEXT: Final = b"some text that is said again and again. " * 200
PACK: Final = PackId(1)


class Sample:
    """A small store with a row in every table, to be damaged."""

    def __init__(self, path: Path) -> None:
        """Open a store that `fill` filled."""
        self.path = path
        self.store = Store(path)
        self.base = self.inode(b"base.safetensors")
        self.bottom, self.top = self.inode(BOTTOM[1:]), self.inode(TOP[1:])
        self.folder = self.inode(b"folder")
        self.text = self.store.namespace.lookup(self.folder, b"text")
        self.link = self.store.namespace.lookup(self.folder, b"link")
        self.cut = self.inode(b"cut")
        self.staged = self.inode(b"staged")
        (self.orphan,) = self.store.orphans.inodes()

    def inode(self, name: bytes) -> InodeNumber:
        return self.store.namespace.lookup(ROOT, name)

    @property
    def pack(self) -> Path:
        return pack_path(self.store.packs, PACK)

    @property
    def window(self) -> Path:
        (path,) = self.store.staging.directory.path.iterdir()
        return path

    # -- damage

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        with self.store.index.change():
            self.store.index.put(table, key, value)

    def delete(self, table: Table, key: bytes) -> None:
        with self.store.index.change():
            self.store.index.delete(table, key)

    def value(self, table: Table, key: bytes) -> bytes:
        value = self.store.index.get(table, key)
        assert value is not None
        return value

    def count(self, name: bytes, value: int) -> None:
        with self.store.index.change():
            self.store.counters.set(name, value)

    def node(self, inode: InodeNumber) -> Inode:
        return self.store.inodes.get(inode)

    def put_node(self, node: Inode) -> None:
        self.put(Table.INODES, number_key(node.inode), node.to_bytes())

    def dentry(self, folder: InodeNumber, name: bytes) -> Dentry:
        return Dentry.from_bytes(self.value(Table.DENTRIES, number_key(folder) + name))

    def extents(self, inode: InodeNumber) -> list[Extent]:
        return list(self.store.maps.overlapping(inode, 0, self.node(inode).size))

    def put_extent(self, inode: InodeNumber, extent: Extent) -> None:
        self.put(Table.EXTENTS, pair_key(inode, extent.start), extent.to_bytes())

    def chunk_at(self, inode: InodeNumber, offset: int) -> tuple[ChunkId, Chunk]:
        (extent,) = self.store.maps.overlapping(inode, offset, offset + 1)
        return extent.chunk, self.store.chunks.record(extent.chunk)

    def put_chunk(self, chunk: ChunkId, record: Chunk) -> None:
        self.put(Table.CHUNKS, number_key(chunk), record.to_bytes())

    def row(self) -> PackRow:
        return self.store.chunks.pack_row(PACK)

    def put_row(self, row: PackRow) -> None:
        self.put(Table.PACKS, number_key(PACK), row.to_bytes())

    def lose(self, start: int, stop: int, *, generation: int = 0) -> None:
        """Record that the disk lost bytes of the staged window, or of one so much newer."""
        ((key, value),) = self.store.index.pages(Table.STAGED)
        row = WindowRanges.from_bytes(value)
        lost = WindowRanges(row.generation + generation, RangeSet([(start, stop)]))
        self.put(Table.LOST, key, lost.to_bytes())
        with self.store.index.change():
            add_to_totals(self.store.index, InodeNumber(number_of(key)), staging_rows=1)

    # -- checking

    def findings(self, *, data: bool = True) -> list[Finding]:
        """Commit the damage, open the store again, and return the findings."""
        self.store.index.commit()
        self.store.abandon()
        with Store(self.path, read_only=True) as store:
            return check(store, data=data)

    def finding(self) -> tuple[str, tuple[bytes, ...], tuple[str, ...]]:
        """Return the invariant, the files and the tensors of the only finding."""
        (finding,) = self.findings()
        return finding.invariant, finding.files, finding.tensors


def fill(path: Path) -> None:
    """Fill a new store."""
    with Store(path) as store:
        for model in (BASE, LORA, ONNX, DATA):
            new_file(store, model[1:], (MODELS / model[1:].decode()).read_bytes())
        folder = store.namespace.create(ROOT, b"folder", FOLDER, ME).inode
        text = new_file(store, b"text", TEXT, folder)
        store.namespace.symlink(folder, b"link", b"text", ME)
        store.attributes.put(text, b"user.note", b"value")
        cut = new_file(store, b"cut", noise(2 * CHUNK, 1))
        gone = new_file(store, b"gone", noise(100, 2))
        new_file(store, b"orphan", noise(100, 3))
        ingest_all(store)
        for name in (b"gone", b"orphan"):
            store.namespace.unlink(ROOT, name)
        drain(store.orphans.remove(gone))
        derive_some(store)
        store.writes.truncate(cut, 10)
        staged = new_file(store, b"staged", noise(100, 4))
        for inode in (cut, staged):
            store.flush(inode)
        base = store.namespace.lookup(ROOT, BASE[1:])
        with store.index.change():
            store.index.put(Table.PENDING, number_key(base), number_key(1))
            note_tensors(store, base)


def note_tensors(store: Store, inode: InodeNumber) -> None:
    """List a file's tensors as candidates, as the optimizer does. Inside a change."""
    tensors, similarity = TensorTable(store.index), SimilarityIndex(store)
    for span in tensors.spans(inode):
        row = tensors.find(inode, span.start)
        sampler = Sampler(span.dtype, span.shape, span.size)
        sampler.feed(0, store.contents.read(inode, span.start, span.size))
        if row is not None and (sketch := sampler.sketch()) is not None:
            similarity.put(inode, row, sketch)


def derive_some(store: Store) -> None:
    """Store a model with one tensor derived from another model, and one from no file's chunk."""
    new_file(store, BOTTOM[1:], model_of(LOWEST, noise(CHUNK, 12)))
    upper = LOWEST[100:50_100], HELD[:40_000]
    top = new_file(store, TOP[1:], model_of(noise(1000, 14), *upper))
    gone = new_file(store, b"held", HELD)
    ingest_all(store)
    bottom = store.namespace.lookup(ROOT, BOTTOM[1:])
    start = store.contents.node(top).size - sum(map(len, upper))
    base = chunk_at(store, bottom, store.contents.node(bottom).size - 2 * CHUNK)
    derive(store, chunk_at(store, top, start), (base, 100, 50_000))
    held = chunk_at(store, gone)
    derive(store, chunk_at(store, top, start + 50_000), (held, 0, 40_000))
    store.namespace.unlink(ROOT, b"held")
    drain(store.orphans.remove(gone))


def copy_of(path: Path, folder: Path) -> Path:
    """Copy a store into `folder`, and return its path."""
    return shutil.copytree(path, folder / path.name)
