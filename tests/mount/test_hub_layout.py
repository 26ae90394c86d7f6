"""A Hub download replayed without the Hub: the files, names and calls of huggingface_hub."""

import hashlib
import os
import shutil
import tempfile
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support.mounts import Mount, drop_kernel_caches, run_python
from tests.support.paths import MODELS

pytestmark = pytest.mark.mount

COMMIT = "8b3219a92973c328a8e22fadcfa821b5dc75636a"
FILES = sorted(MODELS.glob("base*"))
BLOCK = 100_000  # bytes of one write; the Hub's client has larger ones


def etag(source: Path) -> str:
    return hashlib.sha256(source.read_bytes()).hexdigest()


class Cache:
    """A Hub cache in `top`, filled as `snapshot_download` fills it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.model = top / "models--some--model"
        self.snapshot = self.model / "snapshots" / COMMIT
        for folder in (self.model / "blobs", self.model / "refs", self.snapshot):
            folder.mkdir(parents=True)

    def download(self, source: Path) -> Path:
        """Store one file, and return its name in the snapshot."""
        blob = self.model / "blobs" / etag(source)
        lock = self.top / ".locks" / self.model.name / f"{blob.name}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            incomplete = blob.with_name(f"{blob.name}.{uuid.uuid4().hex[:8]}.incomplete")
            self._fetch(source, incomplete)
            self._set_usual_mode(incomplete)
            shutil.move(incomplete, blob)
        pointer = self.snapshot / source.name
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        return pointer

    def point_to(self, commit: str) -> None:
        """Replace the branch's ref in one step."""
        new = self.model / "refs" / f"main.{uuid.uuid4().hex}"
        new.write_text(commit)
        new.replace(self.model / "refs" / "main")

    def _fetch(self, source: Path, incomplete: Path) -> None:
        assert shutil.disk_usage(incomplete.parent).free > source.stat().st_size
        with source.open("rb") as stream, incomplete.open("ab") as file:
            while block := stream.read(BLOCK):
                file.write(block)

    def _set_usual_mode(self, path: Path) -> None:
        # A fresh file shows the umask without changing it.
        probe = path.parent / f"tmp_{uuid.uuid4()}"
        probe.touch()
        path.chmod(probe.stat().st_mode & 0o777)
        probe.unlink()


@pytest.fixture
def cache(here: Path) -> Cache:
    return Cache(here / "hub")


def test_snapshot(cache: Cache, shared_mount: Mount) -> None:
    """Eight threads download a snapshot whose every file reads back as the source."""
    with ThreadPoolExecutor(8) as pool:
        pointers = list(pool.map(cache.download, FILES))
    shared_mount.sync()
    drop_kernel_caches()
    for pointer, source in zip(pointers, FILES, strict=True):
        assert pointer.readlink() == Path("../../blobs") / etag(source)
        assert etag(pointer) == etag(source)


def test_nothing_is_left_over(cache: Cache) -> None:
    """After a download the blobs folder holds the blobs, with the mode of any new file."""
    for source in FILES:
        cache.download(source)
    (cache.top / "new").touch()
    mode = (cache.top / "new").stat().st_mode
    blobs = list((cache.model / "blobs").iterdir())
    assert sorted(path.name for path in blobs) == sorted({etag(source) for source in FILES})
    assert {path.stat().st_mode for path in blobs} == {mode}


def test_symlinks_are_supported(here: Path) -> None:
    """The client's probe, a relative link in a temporary folder, succeeds."""
    with tempfile.TemporaryDirectory(dir=here) as folder:
        source = Path(folder) / "src"
        source.touch()
        (Path(folder) / "dst").symlink_to("src")
        assert (Path(folder) / "dst").samefile(source)


def test_resumed_download(cache: Cache) -> None:
    """An interrupted download continues at the end of its `.incomplete` file."""
    source = MODELS / "base.safetensors"
    incomplete = cache.model / "blobs" / f"{etag(source)}.incomplete"
    incomplete.write_bytes(source.read_bytes()[:333_333])
    with source.open("rb") as stream, incomplete.open("ab") as file:
        stream.seek(incomplete.stat().st_size)
        file.write(stream.read())
    blob = incomplete.with_suffix("")
    shutil.move(incomplete, blob)
    assert etag(blob) == blob.name


def test_replaced_ref(cache: Cache) -> None:
    """A reader of a ref that is repeatedly replaced sees a whole commit."""
    commits = {letter * 40 for letter in "abcdef"}
    cache.point_to("a" * 40)
    seen: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.add((cache.model / "refs" / "main").read_text())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for commit in sorted(commits) * 20:
            cache.point_to(commit)
    finally:
        stop.set()
        watcher.join()
    assert seen <= commits
    assert [path.name for path in (cache.model / "refs").iterdir()] == ["main"]


def test_local_folder(here: Path) -> None:
    """A download into a folder of its own moves each file out of its hidden cache."""
    staging = here / ".cache" / "huggingface" / "download"
    staging.mkdir(parents=True)
    for source in FILES:
        incomplete = staging / f"{source.name}.{etag(source)}.incomplete"
        with FileLock(staging / f"{source.name}.lock"):
            shutil.copyfile(source, incomplete)
            shutil.move(incomplete, here / source.name)
            (staging / f"{source.name}.metadata").write_text(f"{COMMIT}\n{etag(source)}\n0\n")
    assert {path.name: etag(path) for path in here.iterdir() if path.is_file()} == {
        source.name: etag(source) for source in FILES
    }


def test_content_addressed_blobs(here: Path) -> None:
    """Read-only blobs with their list of users appended to and synced, as newer clients do."""
    for source in FILES:
        blob = here / "blobs" / etag(source)[:2] / etag(source)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with blob.open("wb") as file:
            os.writev(file.fileno(), [source.read_bytes()[:1000], source.read_bytes()[1000:]])
        blob.chmod(0o444)
        for user in ("one", "two"):
            with blob.with_suffix(".refs").open("a") as users:
                users.write(f"{user}\n")
                users.flush()
                os.fsync(users.fileno())
        assert etag(blob) == blob.name
        assert blob.with_suffix(".refs").read_text() == "one\ntwo\n"


def test_loading_by_the_snapshot_name(cache: Cache, shared_mount: Mount) -> None:
    """A model whose blob has no extension loads through its link."""
    pointer = cache.download(MODELS / "base.safetensors")
    shared_mount.sync()
    drop_kernel_caches()
    run_python(
        """
        import sys
        import numpy as np
        from safetensors.numpy import load_file

        one, other = load_file(sys.argv[1]), load_file(sys.argv[2])
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
        """,
        pointer,
        MODELS / "base.safetensors",
    )
