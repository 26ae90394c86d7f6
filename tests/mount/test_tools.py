"""Everyday tools work on a mount as they do on any folder."""

import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.mounts import DEADLINE, Mount, drop_kernel_caches, modelfs, run, run_python
from tests.support.paths import MODELS

pytestmark = pytest.mark.mount


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


def digests(top: Path) -> dict[str, str]:
    """Map the name of every file under `top` to the digest of its content."""
    return {
        str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in top.rglob("*")
        if path.is_file()
    }


def attributes(top: Path) -> dict[str, tuple[object, ...]]:
    """Map every name under `top` to what `cp -a` promises to keep of it."""
    found: dict[str, tuple[object, ...]] = {}
    for path in top.rglob("*"):
        node = path.lstat()
        link = path.is_symlink()
        found[str(path.relative_to(top))] = (
            node.st_mode,
            node.st_uid,
            node.st_gid,
            node.st_mtime_ns,
            0 if path.is_dir() else node.st_nlink,
            path.readlink() if link else None,
            [] if link else [(key, os.getxattr(path, key)) for key in sorted(os.listxattr(path))],
        )
    return found


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A folder with all that a copy has to keep: times, modes, links, attributes."""
    family = tmp_path / "family"
    shutil.copytree(MODELS, family / "models")
    (family / "empty").mkdir(mode=0o700)
    (family / "latest").symlink_to("models/base.safetensors")
    (family / "dangling").symlink_to("nowhere")
    os.link(family / "models" / "base.onnx", family / "same.onnx")
    (family / "models" / "base.pt").chmod(0o640)
    os.setxattr(family / "models" / "base.pt", "user.origin", b"a hub")
    os.utime(family / "models" / "base.pt", ns=(10**18 + 123_456_789, 10**18 + 987_654_321))
    return family


def test_cp(here: Path) -> None:
    """`cp -r` into a mount copies every byte."""
    run("cp", "-r", MODELS, here / "copy")
    assert digests(here / "copy") == digests(MODELS)


def test_cp_archive(here: Path, family: Path, shared_mount: Mount) -> None:
    """`cp -a` into a mount keeps bytes, modes, owners, times, links and attributes."""
    run("cp", "-a", family, here / "copy")
    shared_mount.sync()
    drop_kernel_caches()
    assert digests(here / "copy") == digests(family)
    assert attributes(here / "copy") == attributes(family)


def test_cp_within_the_mount(here: Path, family: Path) -> None:
    """`cp -a` from a mount into the same mount gives the same tree once more."""
    run("cp", "-a", family, here / "one")
    run("cp", "-a", here / "one", here / "two")
    assert digests(here / "two") == digests(family)
    assert attributes(here / "two") == attributes(family)


def test_du_counts_no_holes(here: Path) -> None:
    """`du` shows the bytes of a file that are not in holes; none is shown with no block at all."""
    with (here / "holes").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 20)
        file.write(os.urandom(1 << 20))
    (here / "full").write_bytes(os.urandom(3 << 20))

    def blocks(name: str) -> int:
        return int(run("du", "--block-size=512", here / name).split()[0])

    for _ in range(2):
        assert (blocks("holes"), blocks("full")) == (2048, 6144)
        modelfs("sync", here)
        drop_kernel_caches()
    with (here / "empty").open("wb") as file:
        file.truncate(1 << 30)
    assert blocks("empty") == 1


def test_cp_sparse(here: Path, tmp_path: Path) -> None:
    """`cp --sparse=always` of a file with holes gives the same bytes."""
    with (tmp_path / "holes").open("wb") as file:
        for offset in (0, 3_000_000, 7_654_321):
            file.seek(offset)
            file.write(b"island")
        file.truncate(9_000_000)
    run("cp", "--sparse=always", tmp_path / "holes", here / "in")
    run("cp", "--sparse=always", here / "in", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "holes").read_bytes()


@needs("rsync")
def test_rsync(here: Path, family: Path) -> None:
    """`rsync -aHX` copies into a mount, and a second run finds nothing to do."""
    options = ("-aHX", "--itemize-changes", "--modify-window=-1")
    command = ("rsync", *options, f"{family}/", f"{here}/copy/")
    run(*command)
    assert digests(here / "copy") == digests(family)
    assert attributes(here / "copy") == attributes(family)
    assert run(*command) == ""


@needs("rsync")
def test_rsync_in_place(here: Path, tmp_path: Path, shared_mount: Mount) -> None:
    """`rsync --inplace` of a changed file rewrites the stored one to the new content."""
    source = tmp_path / "base.safetensors"
    shutil.copy(MODELS / source.name, source)
    run("rsync", "-a", source, f"{here}/")
    shared_mount.sync()
    content = bytearray(source.read_bytes())
    content[500_000:500_100] = bytes(100)
    source.write_bytes(content + b"tail")
    run("rsync", "-a", "--inplace", "--no-whole-file", source, f"{here}/")
    assert (here / source.name).read_bytes() == content + b"tail"


def test_mv_within_the_mount(here: Path, shared_mount: Mount) -> None:
    """`mv` of files and folders across folders of a mount keeps inodes and bytes."""
    shutil.copytree(MODELS, here / "a" / "models")
    (here / "b").mkdir()
    numbers = {path.name: path.stat().st_ino for path in (here / "a" / "models").iterdir()}
    shared_mount.sync()
    run("mv", here / "a" / "models", here / "b" / "moved")
    run("mv", here / "b" / "moved" / "base.onnx", here / "a" / "base.onnx")
    run("mv", here / "a" / "base.onnx", here / "b" / "moved" / "base.onnx")
    assert digests(here / "b" / "moved") == digests(MODELS)
    moved = {path.name: path.stat().st_ino for path in (here / "b" / "moved").iterdir()}
    assert moved == numbers
    assert list((here / "a").iterdir()) == []


def test_mv_into_and_out(here: Path, family: Path, tmp_path: Path) -> None:
    """`mv` between file systems carries a whole tree into a mount and out again."""
    bytes_before, attributes_before = digests(family), attributes(family)
    run("mv", family, here / "in")
    assert not family.exists()
    run("mv", here / "in", tmp_path / "out")
    assert list(here.iterdir()) == []
    assert digests(tmp_path / "out") == bytes_before
    assert attributes(tmp_path / "out") == attributes_before


def test_tar(here: Path, family: Path) -> None:
    """An archive packed from a mount unpacks there to the same tree."""
    run("cp", "-a", family, here / "in")
    (here / "out").mkdir()
    run("tar", "-C", here / "in", "--xattrs", "-cf", here / "all.tar", ".")
    run("tar", "-C", here / "out", "--xattrs", "-xpf", here / "all.tar")
    assert digests(here / "out") == digests(family)
    assert attributes(here / "out") == attributes(family)


def test_dd_with_odd_blocks(here: Path) -> None:
    """`dd` in blocks of odd size, each synced, writes and reads every byte."""
    source = MODELS / "base.safetensors"
    run("dd", f"if={source}", f"of={here}/in", "bs=77777", "oflag=dsync")
    run("dd", f"if={here}/in", f"of={here}/out", "bs=4099", "conv=fsync")
    assert (here / "out").read_bytes() == source.read_bytes()


def test_remove_everything(here: Path) -> None:
    """`rm -r` empties a tree of many folders and files."""
    for folder in range(20):
        (here / "top" / f"{folder}").mkdir(parents=True)
        for name in range(20):
            (here / "top" / f"{folder}" / f"{name}").write_text("x")
    run("rm", "-r", here / "top")
    assert list(here.iterdir()) == []


@needs("git")
def test_git(here: Path, tmp_path: Path) -> None:
    """A git repository on a mount takes commits, packs itself, checks clean and clones."""
    repository = here / "repository"
    identity = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "gc.auto=0")
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*arguments: str | Path) -> str:
        return run("git", *identity, "-C", here, *arguments, env=environment)

    git("init", "--quiet", repository)
    for version in range(3):
        shutil.copy(MODELS / "base-bf16.safetensors", repository / f"model-{version}")
        (repository / "README").write_text(f"version {version}\n" * 1000)
        git("-C", repository, "add", ".")
        git("-C", repository, "commit", "--quiet", "-m", f"version {version}")
    git("-C", repository, "gc", "--quiet", "--prune=now")
    git("-C", repository, "fsck", "--strict")
    git("clone", "--quiet", "--no-hardlinks", repository, tmp_path / "clone")
    git("clone", "--quiet", repository, here / "clone")
    assert git("-C", repository, "status", "--porcelain") == ""
    for clone in (tmp_path / "clone", here / "clone"):
        assert git("-C", clone, "rev-parse", "HEAD") == git("-C", repository, "rev-parse", "HEAD")
        assert (clone / "README").read_text() == "version 2\n" * 1000


HOLD_LOCK = """
    import sys
    from filelock import FileLock

    with FileLock(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
"""

TRY_LOCK = """
    import sys
    from filelock import FileLock, Timeout

    try:
        with FileLock(sys.argv[1], timeout=0):
            print("free")
    except Timeout:
        print("busy")
"""


def test_filelock(here: Path) -> None:
    """A filelock held by one process is busy for another until the holder ends."""
    lock = here / "x.lock"
    attempt = (sys.executable, "-c", textwrap.dedent(TRY_LOCK), lock)
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD_LOCK), lock],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert run(*attempt) == "busy\n"
        holder.communicate(timeout=DEADLINE)
    assert run(*attempt) == "free\n"


LOCK_RECORDS = """
    import fcntl, subprocess, sys

    def attempt(start):
        script = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), 6, 10, int(sys.argv[2]))"
        command = [sys.executable, "-c", script, sys.argv[1], str(start)]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode

    with open(sys.argv[1], "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 20)
        assert [attempt(start) for start in (20, 29, 30, 10)] == [1, 1, 0, 0]
"""


def test_record_locks(here: Path) -> None:
    """A POSIX lock on a byte range is busy for another process; other ranges are free."""
    (here / "x").write_bytes(bytes(100))
    run_python(LOCK_RECORDS, here / "x")


def test_sqlite(here: Path) -> None:
    """A SQLite database on a mount commits, rolls back and checks sound."""
    run_python(
        """
        import sqlite3, sys

        with sqlite3.connect(sys.argv[1]) as database:
            database.execute("create table t (a integer primary key, b blob)")
            for n in range(50):
                database.execute("insert into t values (?, ?)", (n, bytes([n]) * 5000))
                database.commit()
            database.execute("delete from t where a > 9")
            database.rollback()
            database.execute("delete from t where a % 2")
            database.commit()
            database.execute("vacuum")
        database.close()
        database = sqlite3.connect(sys.argv[1])
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        assert database.execute("select count(*) from t").fetchone() == (25,)
        database.close()
        """,
        here / "x.db",
    )
