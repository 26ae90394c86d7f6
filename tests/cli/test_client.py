"""The client's half of the control protocol, with a fake daemon."""

import os
import socket
from pathlib import Path

import pytest

from modelfs.cli import client
from modelfs.cli.failure import Failure
from modelfs.errors import StoreNotTrusted
from modelfs.store.create import create_store
from modelfs.store.disk.directory import Directory
from tests.support.fake_daemon import Fake

BIG = "x" * 3_000_000


def test_result(fake: Fake, empty: Path) -> None:
    """A command and its arguments go out as one object; the result comes back."""
    daemon = fake(gc=[{"result": {"packs": 3}}])
    with _connected(empty) as connected:
        assert connected.ask("gc", dry_run=True) == {"packs": 3}
    assert daemon.requests == [{"command": "gc", "dry_run": True}]


def test_progress(fake: Fake, empty: Path) -> None:
    """Progress is passed on in order, before the result."""
    steps = [{"progress": {"done": done, "total": 2}} for done in range(3)]
    fake(sync=[*steps, {"result": {}}])
    seen: list[tuple[int, int]] = []
    with _connected(empty) as connected:
        connected.ask("sync", lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_long_lines_in_pieces(fake: Fake, empty: Path) -> None:
    """An answer may be of any length and arrive in any pieces."""
    fake(
        inspect=[
            b'{"progress": {"done"',
            b': 1, "total": 2}}\n{"res',
            b'ult": {"a": "%b"}}\n' % BIG.encode(),
        ]
    )
    with _connected(empty) as connected:
        assert connected.ask("inspect", inode=7) == {"a": BIG}


def test_error(fake: Fake, empty: Path) -> None:
    """An error of the daemon is a failure that names the store."""
    fake(sync=[{"error": "no room", "errno": 28}])
    with _connected(empty) as connected, pytest.raises(Failure, match="no room; remove ") as failed:
        connected.ask("sync")
    assert str(empty) in str(failed.value)


@pytest.mark.parametrize(
    "reply",
    [b"junk\n", b"[]\n", b"{}\n", b'{"progress": 3}\n', b'{"result": []}\n', b"\xff\n", b"\n"],
)
def test_junk(fake: Fake, empty: Path, reply: bytes) -> None:
    """An answer that breaks the protocol is a failure, never a crash."""
    fake(stats=[reply])
    with _connected(empty) as connected, pytest.raises(Failure, match="unmount and mount again"):
        connected.ask("stats", lambda done, total: None)


@pytest.mark.parametrize("replies", [[], [b'{"resu'], [{"progress": {"done": 1, "total": 2}}]])
def test_daemon_ends(fake: Fake, empty: Path, replies: list[bytes]) -> None:
    """A daemon that ends before its result is a failure that names its log."""
    fake(sync=replies)
    with _connected(empty) as connected, pytest.raises(Failure, match=r"daemon\.log"):
        connected.ask("sync")


def test_slow_daemon(
    fake: Fake, empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a long wait a note names the daemon and its process."""
    monkeypatch.setattr(client, "NOTE_SECONDS", 0.0)
    fake(sync=[{"result": {}}])
    with _connected(empty) as connected:
        connected.ask("sync")
    out, err = capsys.readouterr()
    assert out == ""
    assert all(f"(process {os.getpid()})" in line for line in err.splitlines())


def test_pid(fake: Fake, empty: Path) -> None:
    """A connection has the process id of the daemon."""
    fake()
    with _connected(empty) as connected:
        assert connected.pid == os.getpid()


def test_no_daemon(empty: Path) -> None:
    """Without a socket there is no daemon."""
    assert client.connect(Directory(empty, trust=True)) is None


def test_stale_socket(empty: Path) -> None:
    """A socket that a crash left behind counts as no daemon."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(empty / "control.sock"))
    assert client.connect(Directory(empty, trust=True)) is None


def test_long_path(tmp_path: Path) -> None:
    """The path of a store may be too long for a socket's address."""
    store = tmp_path.joinpath(*["x" * 100] * 10)
    store.mkdir(parents=True)
    (store / "FORMAT").touch()
    with _listening(store), _connected(store) as connected:
        assert connected.pid == os.getpid()


def _connected(store: Path) -> client.DaemonClient:
    connected = client.connect(Directory(store, trust=True))
    assert connected is not None
    return connected


def _listening(store: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    folder = os.open(store, os.O_PATH)
    listener.bind(f"/proc/self/fd/{folder}/control.sock")
    os.close(folder)
    listener.listen()
    return listener


def test_a_request_names_its_store(fake: Fake, empty: Path) -> None:
    """So the daemon of another store does not carry it out."""
    daemon = fake(sync=[{"result": {}}])
    with _connected(empty) as connected:
        connected.ask("sync")
    assert daemon.stores == [f"{empty.stat().st_dev}:{empty.stat().st_ino}"]


def test_no_link_to_a_socket_is_followed(fake: Fake, empty: Path, tmp_path: Path) -> None:
    """A link could lead to the socket of another program, which gets no request."""
    daemon = fake(sync=[{"result": {}}])
    other = tmp_path / "other.store"
    create_store(other)
    (other / "control.sock").symlink_to(empty / "control.sock")
    for trust in (False, True):
        with pytest.raises(StoreNotTrusted, match="not a socket"):
            client.connect(Directory(other, trust=True), trust=trust)
    assert daemon.requests == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_the_daemon_of_another_user(fake: Fake, empty: Path) -> None:
    """Root uses it with trust only; a process of a third user is never taken for a daemon."""
    fake(sync=[{"result": {}}])
    for path in (empty, empty / "control.sock"):
        os.chown(path, 4001, 4001)
    with pytest.raises(StoreNotTrusted, match="owned by user 4001"):
        client.connect(Directory(empty, trust=True))
    trusted = client.connect(Directory(empty, trust=True), trust=True)
    assert trusted is not None
    trusted.close()
    os.chown(empty, 0, 0)
    with pytest.raises(StoreNotTrusted, match=r"control\.sock .owned by user 4001"):
        client.connect(Directory(empty, trust=True))
