"""The other systems of the benchmark of speed keep files, as a plain folder does."""

from pathlib import Path

import pytest

from tests.support.paths import MODELS
from tools.bench.speed.peers import PEERS, Peer, Pyfuse3
from tools.bench.speed.turn import compare
from tools.bench.speed.volumes import PlainFolder, System, Volume

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("fuse")]

every_peer = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.system.name)


def new(peer: Peer, folder: Path) -> Volume:
    if problem := peer.lacks():
        pytest.skip(problem)
    folder.mkdir()
    return peer.system.volume(folder)


@every_peer
def test_a_library(peer: Peer, tmp_path: Path) -> None:
    """Files that it was filled with come back byte for byte, at each mount."""
    volume = new(peer, tmp_path / "volume")
    volume.fill(MODELS, optimized=True)
    for _ in range(2):
        compare(volume, MODELS)
    assert all(path.is_file() for path in volume.backing())


@every_peer
def test_written_files(peer: Peer, tmp_path: Path) -> None:
    """Written files are there again after a new mount, unless the peer is for reading only."""
    volume = new(peer, tmp_path / "volume")
    if not peer.system.can_write:
        pytest.skip("it cannot be written")
    volume.make(1 << 20)
    volume.start()
    (volume.path / "folder").mkdir()
    (volume.path / "folder" / "file").write_bytes(b"bytes")
    volume.settle()
    volume.stop()
    volume.start()
    try:
        assert (volume.path / "folder" / "file").read_bytes() == b"bytes"
    finally:
        volume.stop()


def test_a_peer_that_lacks_something() -> None:
    peer = Peer(System("peer", PlainFolder), ("sh", "no-such-program"))
    assert peer.lacks() == "needs no-such-program"


def test_calls_of_programs(tmp_path: Path) -> None:
    """Calls of the works have the same effect on files of pyfuse3 as on plain ones."""
    volume = Pyfuse3(tmp_path)
    volume.make(0)
    volume.start()
    try:
        top = volume.path
        for number in range(3):
            (top / f"{number}").write_bytes(b"x" * 100_000)
        with (top / "0").open("r+b") as file:
            file.seek(5)
            file.write(b"changed")
            file.truncate(20)
        (top / "1").replace(top / "2")
        (top / "2").chmod(0o600)
        (top / "folder").mkdir()
        (top / "folder").rmdir()
        with pytest.raises(FileNotFoundError):
            (top / "1").stat()
        assert sorted(path.name for path in top.iterdir()) == ["0", "2"]
        assert (top / "2").stat().st_mode & 0o777 == 0o600
    finally:
        volume.stop()
    kept = tmp_path / "source"
    assert (kept / "0").read_bytes() == b"x" * 5 + b"changed" + b"x" * 8
    assert (kept / "2").read_bytes() == b"x" * 100_000
    assert sorted(path.name for path in kept.iterdir()) == ["0", "2"]
