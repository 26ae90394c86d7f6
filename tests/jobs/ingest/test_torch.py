"""Archives of torch.save in a store, beside other formats of the same tensors."""

import pytest

from modelfs.formats.layout import Format
from modelfs.jobs.ingest.apply import Applier
from modelfs.jobs.ingest.worker import Worker
from modelfs.jobs.inspect.file import inspect
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.paths import MODELS, TORCH
from tests.support.run_jobs import ingest_file
from tests.support.stores import Box, content_of, noise, small_windows, stored_file
from tests.support.torch_archives import saved

BOTH = ("base.pt", "base.safetensors")
ARCHIVES = sorted(TORCH.glob("*.pt"))


def extents(store: Store, inode: InodeNumber) -> list[Extent]:
    return list(store.maps.within(inode, 0, store.contents.node(inode).size))


def shared(store: Store, inode: InodeNumber, other: InodeNumber) -> int:
    """Return the number of bytes of a file in chunks that another file uses, too."""
    chunks = {extent.chunk for extent in extents(store, other)}
    return sum(extent.length for extent in extents(store, inode) if extent.chunk in chunks)


@pytest.mark.parametrize(
    "names", [("base.pt", "base.safetensors"), ("base.safetensors", "base.pt")]
)
def test_all_weights_are_shared(box: Box, names: tuple[str, str]) -> None:
    """A state dict and a safetensors file share all weights, in either order."""
    contents = {name: (MODELS / name).read_bytes() for name in names}
    inodes = {name: stored_file(box.store, name.encode(), contents[name]) for name in names}
    weights = sum(tensor.bytes for tensor in inspect(box.store, inodes["base.pt"]).tensors)
    assert weights == 986_112
    assert shared(box.store, inodes["base.pt"], inodes["base.safetensors"]) == weights
    store = box.reopen()
    for name, inode in inodes.items():
        assert content_of(store, inode) == contents[name]


def test_inspect_names_the_tensors(box: Box) -> None:
    """The report on an archive has tensors' names, dtypes and shapes, and the files they share."""
    first = stored_file(box.store, b"m.pt", (MODELS / "base.pt").read_bytes())
    stored_file(box.store, b"m.safetensors", (MODELS / "base.safetensors").read_bytes())
    report = inspect(box.store, first)
    assert report.format == "torch"
    tensors = [(tensor.name, tensor.dtype, tensor.shape) for tensor in report.tensors]
    assert tensors[:2] == [
        ("embeddings.word_embeddings.weight", "F32", (256, 384)),
        ("encoder.layer.5.attention.self.query.weight", "F32", (384, 384)),
    ]
    users = [(each.path, each.tensor) for tensor in report.tensors for each in tensor.shared_with]
    assert users == [("/m.safetensors", tensor.name) for tensor in report.tensors]


def test_archives_read_back(box: Box) -> None:
    """Archives read back byte for byte, those of old torch versions, too."""
    contents = {path.name: path.read_bytes() for path in ARCHIVES}
    inodes = {name: stored_file(box.store, name.encode(), contents[name]) for name in contents}
    store = box.reopen()
    for name, inode in inodes.items():
        assert content_of(store, inode) == contents[name]
        wanted = Format.PLAIN if name == "before-1.6.pt" else Format.TORCH
        assert store.inodes.get(inode).format is wanted


def test_a_growing_archive_is_cut_when_it_is_complete(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No part of a growing archive is ingested early, and all of it once it is complete."""
    small_windows(monkeypatch, 1 << 14)
    content = saved({"w": ("F32", (100, 250), noise(100_000))})
    inode = stored_file(box.store, b"m.pt", b"")
    for at in range(0, len(content), 7000):
        box.store.writes.write(inode, at, content[at : at + 7000])
        applier = Applier(box.store)
        region = applier.next_region(applier.begin_pass(inode, complete=False))
        assert region is None or not Worker(box.store).ingest_region(region, box.store.writer())
    assert extents(box.store, inode) == []
    ingest_file(box.store, inode)
    assert [tensor.name for tensor in inspect(box.store, inode).tensors] == ["w"]
    assert content_of(box.store, inode) == content


def test_edited_archives(box: Box) -> None:
    """An edit that breaks an archive makes the file plain, and undoing it makes it an archive."""
    content = saved({"w": ("F32", (100, 25), noise(10_000))})
    inode = stored_file(box.store, b"m.pt", content)
    for end, wanted in ((b"x", Format.PLAIN), (content[-1:], Format.TORCH)):
        box.store.writes.write(inode, len(content) - 1, end)
        ingest_file(box.store, inode)
        assert box.store.inodes.get(inode).format is wanted
        assert content_of(box.store, inode) == content[:-1] + end
