"""A damaged pack, as a user sees it: errors, fsck, repair, and good copies."""

import contextlib
import errno
import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.index_pages import damage_flags, leaves_of
from tests.support.mounts import MODELFS, Mount, run, wait_until
from tests.support.paths import MODELS
from tests.support.stores import overwrite, pack_path

pytestmark = pytest.mark.mount

MODEL = MODELS / "base.safetensors"
PIECE = 4096


def _damage(store: Path, offset: int) -> None:
    with Store(store, read_only=True) as opened:
        inode = opened.namespace.lookup(ROOT, MODEL.name.encode())
        (extent,) = opened.maps.overlapping(inode, offset, offset + 1)
        record = opened.chunks.record(extent.chunk)
        pack = pack_path(opened.packs, record.pack)
    overwrite(pack, record.offset + 10, b"damaged")


def _fsck(store: Path, *options: str) -> tuple[int, str]:
    done = subprocess.run(
        [*MODELFS, "fsck", *options, store], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


def _failing(path: Path, good: bytes) -> set[int]:
    """Return the pieces that fail with EIO; the others have to be right."""
    failed = set()
    with path.open("rb", buffering=0) as file:
        for at in range(0, len(good), PIECE):
            file.seek(at)
            got = _read(file)
            assert got in (good[at : at + PIECE], errno.EIO)
            if got == errno.EIO:
                failed.add(at)
    return failed


def _read(file: io.FileIO) -> object:
    try:
        return file.read(PIECE)
    except OSError as exc:
        return exc.errno


def test_damage_is_named_repaired_and_healed(mount: Mount) -> None:
    """Fsck names file and tensor, repair keeps the rest, and a good copy brings all back."""
    good = MODEL.read_bytes()
    for name in (MODEL.name, "note.txt"):
        shutil.copy(MODEL if name == MODEL.name else __file__, mount.path / name)
    mount.sync()
    mount.stop()
    _damage(mount.store, 1000)
    code, out = _fsck(mount.store, "--data")
    assert (code, f"files: /{MODEL.name}; tensors: embeddings." in out) == (4, True)
    assert _fsck(mount.store, "--data", "--repair")[0] == 1
    assert _fsck(mount.store, "--data")[0] == 0
    mount.start()
    assert (mount.path / "note.txt").read_bytes() == Path(__file__).read_bytes()
    assert _failing(mount.path / MODEL.name, good)
    assert mount.stats()["lost_bytes"] > 0
    forms = {form["form"] for form in mount.inspect(mount.path / MODEL.name)["forms"]}
    assert "lost" in forms
    shutil.copy(MODEL, mount.path / "copy")
    mount.sync()
    assert (mount.path / MODEL.name).read_bytes() == good
    assert mount.stats()["lost_bytes"] == 0


def test_a_damaged_page_of_the_index_is_no_abort(mount: Mount) -> None:
    """A mount over it is refused with the page and the next step; repair brings the files back."""
    good = MODEL.read_bytes()
    shutil.copy(MODEL, mount.path / MODEL.name)
    mount.sync()
    mount.stop()
    leaf = leaves_of(mount.store, "extents")[0]
    damage_flags(mount.store, leaf)
    refused = subprocess.run(
        [*MODELFS, "mount", mount.store, mount.path], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert f"page {leaf} of the index (extents)" in refused.stderr
    assert "modelfs fsck --repair" in refused.stderr
    assert _fsck(mount.store)[0] == 4
    assert _fsck(mount.store, "--repair")[0] in (1, 4)
    assert _fsck(mount.store, "--data")[0] == 0
    mount.start()
    assert _failing(mount.path / MODEL.name, good)
    shutil.copy(MODEL, mount.path / "copy")
    assert (mount.path / "copy").read_bytes() == good


def test_pages_that_are_lost_while_it_is_mounted(mount: Mount) -> None:
    """The daemon dies of them once: its log has the signal, and the next mount is refused."""
    shutil.copy(MODEL, mount.path / MODEL.name)
    mount.sync()
    data = mount.store / "index" / "data.mdb"
    whole = data.read_bytes()
    os.truncate(data, 8192)
    with contextlib.suppress(OSError):
        (mount.path / "no such name").stat()
    wait_until(lambda: not mount.alive)
    assert "Fatal Python error: Bus error" in mount.log()
    run("umount", "-l", mount.path)
    with pytest.raises(AssertionError, match="the file ends before it, and 1 more; check it"):
        mount.start()
    data.write_bytes(whole)
    mount.start()
    assert (mount.path / MODEL.name).read_bytes() == MODEL.read_bytes()
