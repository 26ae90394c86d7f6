"""Stores to test: creating, filling and opening them again."""

import itertools
import json
import os
import random
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelfs.jobs.check.fsck import check
from modelfs.jobs.ingest import passes
from modelfs.store.create import create_store
from modelfs.store.files import window
from modelfs.store.files.namespace import Owner
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.index.tables import ROOT, InodeNumber, PackId
from modelfs.store.packs.pack import Packs
from modelfs.store.store import Store
from tests.support.run_jobs import ingest_file

CHUNK = 4096
WINDOW = 2 * CHUNK  # with the fixture `windows`
ME = Owner(os.geteuid(), os.getegid())
FILE = stat.S_IFREG | 0o644
FOLDER = stat.S_IFDIR | 0o755

_stores = itertools.count()


def new_store(folder: Path, *, chunk_size: int = CHUNK) -> Path:
    """Create a store in a new folder below `folder`, and return its path."""
    path = folder / f"store{next(_stores)}"
    create_store(path, chunk_size=chunk_size)
    return path


def small_windows(patch: pytest.MonkeyPatch, size: int) -> None:
    """Make windows `size` bytes long, so that small files have many."""
    full_size = window.WINDOW
    for name, module in list(sys.modules.items()):
        if name.startswith("modelfs.") and getattr(module, "WINDOW", None) is full_size:
            patch.setattr(module, "WINDOW", size)
    patch.setattr(passes, "REGION_BYTES", 2 * size)


class Box:
    """A store that a test opens again and again."""

    def __init__(self, path: Path, limit: int | None = None) -> None:
        """Open a store, with a limit of its size on the disk."""
        self.path = path
        self._limit = limit
        self.store = Store(path, limit=limit)

    def crash(self) -> Store:
        """Open the store again after a crash: uncommitted changes are lost."""
        self.store.abandon()
        return self._open()

    def reopen(self) -> Store:
        """Close the store in an orderly way, and open it again."""
        self.store.close()
        return self._open()

    def _open(self) -> Store:
        findings = check_closed(self.path)
        self.store = Store(self.path, limit=self._limit)
        assert findings == []
        return self.store


@contextmanager
def checked(path: Path, limit: int | None = None) -> Iterator[Box]:
    """Open a store, and check after the block that it is sound, open and closed."""
    box = Box(path, limit)
    try:
        yield box
        assert check(box.store, data=True) == []
        box.reopen()
    finally:
        box.store.abandon()


def check_closed(path: Path) -> list[object]:
    """Return the findings in a store that no process has open for writing."""
    with Store(path, read_only=True) as store:
        return [*check(store, data=True)]


def new_file(
    store: Store, name: bytes, data: bytes = b"", folder: InodeNumber = ROOT
) -> InodeNumber:
    """Create a file with staged content."""
    inode = store.namespace.create(folder, name, FILE, ME).inode
    if data:
        store.writes.write(inode, 0, data)
    return inode


def stored_file(store: Store, name: bytes, data: bytes) -> InodeNumber:
    """Create a file whose content is in chunks."""
    inode = new_file(store, name, data)
    ingest_file(store, inode)
    store.commit()
    return inode


def durable(store: Store, inode: InodeNumber) -> None:
    """Do the same as fsync(2)."""
    store.flush(inode)
    store.commit()


def content_of(store: Store, inode: InodeNumber) -> bytes:
    return store.contents.read(inode, 0, store.contents.node(inode).size)


def pending_files(store: Store) -> list[InodeNumber]:
    """Return the files that wait for ingest: staged ones, and those with a request."""
    staged = (each.inode for each in store.staging)
    return sorted({*store.inventory.requested(), *staged})


def staged_of(store: Store, inode: InodeNumber) -> StagedFile:
    """Return the staged state of a file that has one."""
    staged = store.staging.find(inode)
    assert staged is not None
    return staged


def names_in(folder: Path) -> set[str]:
    """Return the names of the files of a folder."""
    return {path.name for path in folder.iterdir()}


def noise(size: int, seed: int = 0) -> bytes:
    """Return incompressible bytes."""
    return random.Random(seed).randbytes(size)


def model_of(*tensors: bytes, note: str = "") -> bytes:
    """Return a safetensors file of U8 tensors."""
    at = 0
    entries = [f'"__metadata__":{{"note":"{note}"}}']
    for number, data in enumerate(tensors):
        span = f"[{at},{at + len(data)}]"
        shape = f"[{len(data)}]"
        entries.append(f'"t{number}":{{"dtype":"U8","shape":{shape},"data_offsets":{span}}}')
        at += len(data)
    header = ("{" + ",".join(entries) + "}").encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + b"".join(tensors)


def tensors_of(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """Return a safetensors file of named tensors: dtype, shape and bytes."""
    at = 0
    header: dict[str, object] = {}
    for name, (dtype, shape, data) in tensors.items():
        span = [at, at + len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": span}
        at += len(data)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(data for *_, data in tensors.values())


def pack_path(packs: Packs, pack: int) -> Path:
    return packs.directory.path / f"{PackId(pack):08d}.pack"


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Damage a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def run_apart(script: str, *args: object) -> str:
    """Run Python code in another process, and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


def pack_sizes(store: Store) -> dict[str, int]:
    """Return the sizes of the packs of a store, by their names."""
    return {path.name: path.stat().st_size for path in store.packs.directory.path.iterdir()}
