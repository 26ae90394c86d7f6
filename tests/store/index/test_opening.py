"""Opening LMDB's environment: files cut short, and two opens at a time."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import lmdb
import pytest

from modelfs.errors import CorruptIndex, DamagedPages, StoreBusy
from modelfs.store.disk.directory import Directory
from modelfs.store.index import opening
from modelfs.store.index.index import Index
from modelfs.store.index.pages.data_file import DataFile
from modelfs.store.index.tables import Table
from tests.support.small_index import put
from tests.support.stores import overwrite, run_apart


@pytest.mark.parametrize("read_only", [True, False], ids=["read-only", "writable"])
def test_an_index_cut_short_is_refused(tmp_path: Path, *, read_only: bool) -> None:
    """A short file, whose reads would raise SIGBUS, is refused at opening."""
    index = Index(Directory(tmp_path))
    for number in range(3):
        put(index, b"%d" % number, bytes(1 << 20))
    index.close()
    os.truncate(tmp_path / "data.mdb", 1 << 20)
    with pytest.raises(CorruptIndex, match="cut short"):
        Index(Directory(tmp_path), read_only=read_only)


def test_a_reader_does_not_cut_the_file(tmp_path: Path) -> None:
    """One that finds the file too short leaves it as it is."""
    index = Index(Directory(tmp_path))
    put(index, b"a", bytes(1 << 20))
    index.close()
    size = (tmp_path / "data.mdb").stat().st_size
    os.truncate(tmp_path / "data.mdb", size - 4096)
    with pytest.raises(DamagedPages, match="the file ends before it"):
        Index(Directory(tmp_path), read_only=True)
    assert (tmp_path / "data.mdb").stat().st_size == size - 4096


def test_a_commit_while_a_reader_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file grows between two measurements, or a moment after the commit: nothing is lost."""
    index = Index(Directory(tmp_path))
    put(index, b"a", bytes(1 << 20))

    def size_before_a_commit(file: DataFile) -> int:
        size = file.path.stat().st_size
        monkeypatch.setattr(DataFile, "size", property(lambda file: file.path.stat().st_size))
        run_apart(GROW, tmp_path)
        return size

    index.close()
    monkeypatch.setattr(DataFile, "size", property(size_before_a_commit))
    Index(Directory(tmp_path), read_only=True).close()
    path = tmp_path / "data.mdb"
    whole = path.read_bytes()
    os.truncate(path, len(whole) - 4096)
    late = threading.Timer(0.1, overwrite, (path, len(whole) - 4096, whole[-4096:]))
    late.start()
    monkeypatch.setattr(DataFile, "extend", None)
    Index(Directory(tmp_path), read_only=True).close()
    late.join()


GROW = """
import sys
import threading
from pathlib import Path
from modelfs.store.index.pages.data_file import DataFile
from modelfs.store.disk.directory import Directory
from modelfs.store.index import opening
from modelfs.store.index.index import Index
from tests.support.small_index import put
index = Index(Directory(Path(sys.argv[1])))
put(index, b"b", bytes(8 << 20))
index.close()
"""


def test_an_environment_is_open_once_in_a_process(index: Index, tmp_path: Path) -> None:
    """The second one raises an error, and the first one is not hurt."""
    for read_only in (True, False):
        with pytest.raises(StoreBusy, match="open in this process already"):
            Index(Directory(tmp_path), read_only=read_only)
    assert index.get(Table.META, b"a") == b"1"


SAME_PID = """
import os, sys
from pathlib import Path
from modelfs.store.index.pages.data_file import DataFile
from modelfs.store.disk.directory import Directory
from modelfs.store.index import opening
from modelfs.store.index.index import Index
index = Index(Directory(Path(sys.argv[1])), read_only=True)
index.rows.snapshot_id()
print("open", os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a PID namespace")
def test_the_same_pid_in_two_containers(tmp_path: Path) -> None:
    """LMDB allows one: opening the second is an error with the reason, and does no harm."""
    Index(Directory(tmp_path)).close()
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", SAME_PID, str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == "open 1\n"
        second = subprocess.run(
            command, env=environ, input="", capture_output=True, text=True, check=False
        )
        first.stdin.close()
        assert first.wait(20) == 0
    assert "SamePid" in second.stderr
    assert "the same PID, 1, in another container" in second.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
@pytest.mark.parametrize(("owner", "trust"), [(4001, False), (4001, True), (0, True)])
def test_an_index_that_others_can_change_opens_the_checked_files(
    tmp_path: Path, owner: int, *, trust: bool
) -> None:
    """A link that they put in the place of a file just before LMDB opens it has no effect."""
    folder, private = tmp_path / "index", tmp_path / "private"
    folder.mkdir()
    Index(Directory(folder)).close()
    for path in (folder, *folder.iterdir()):
        os.chown(path, owner, owner)
    private.write_bytes(b"of the reader" * 1000)
    inodes = {path.name: path.stat().st_ino for path in folder.iterdir()}
    with opening.checked_files(Directory(folder, trust=trust), with_slots=True) as given:
        for name in inodes:
            (folder / name).rename(folder / f"{name}.moved")
            (folder / name).symlink_to(private)
        assert {path.name: path.stat().st_ino for path in Path(given).iterdir()} == inodes
        env = lmdb.open(given, readonly=True, create=False, max_dbs=len(Table))
    assert env.readers()
    env.close()
    assert not Path(given).exists()
    assert private.read_bytes() == b"of the reader" * 1000
