"""The log of a daemon in the background."""

import errno
import logging
import os
from pathlib import Path

import pytest

from modelfs.cli import daemon_log
from modelfs.errors import StoreNotTrusted
from modelfs.store.disk.directory import Directory

log = logging.getLogger("modelfs.test")
pytestmark = pytest.mark.usefixtures("logging_as_before")


def test_long_log_is_replaced(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a long log is kept once, and a new one is begun; only its owner can read it."""
    monkeypatch.setattr(daemon_log, "LOG_MAX", 100)
    path = empty / "daemon.log"
    for text in ("a" * 60, "b" * 60, "c" * 60, "d"):
        os.close(daemon_log.begin(empty))
        log.info(text)
    assert "b" * 60 not in (empty / "daemon.log.1").read_text()
    assert "c" * 60 in (empty / "daemon.log.1").read_text()
    assert path.read_text().endswith("d\n")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_stays_short(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the daemon runs, too. Lines of stderr stay in it, and a full disk loses old ones."""
    monkeypatch.setattr(daemon_log, "LOG_MAX", 1000)
    stderr = daemon_log.begin(empty)
    for number in range(100):
        log.info("line %d", number)
        os.write(stderr, b"of stderr %d\n" % number)
    now, old = ((empty / name).read_text() for name in ("daemon.log", "daemon.log.1"))
    assert max(len(now), len(old)) < 1200
    assert now.endswith("line 99\nof stderr 99\n")
    first = int(now.splitlines()[0].rpartition(" ")[2])
    assert old.endswith(f"line {first - 1}\nof stderr {first - 1}\n")
    (empty / "daemon.log.1").unlink()
    (empty / "daemon.log.1").mkdir()  # stands for a disk without room
    for number in range(100):
        log.info("more %d", number)
    assert (empty / "daemon.log").stat().st_size < 1200
    os.close(stderr)


def test_equal_lines(empty: Path) -> None:
    """Of lines that are the same, one is in the log."""
    os.close(daemon_log.begin(empty))
    for number in range(10):
        log.warning("chunk %d is damaged", number // 9)
    assert (empty / "daemon.log").read_text().count("chunk") == 2


def test_no_file(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a writable log file the daemon runs without a log."""

    def refused(folder: Directory, name: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder.path / name))

    monkeypatch.setattr(Directory, "open", refused)
    assert daemon_log.begin(empty) == -1
    log.info("lost")


def test_a_full_disk_drops_lines(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for which the disk has no room is dropped, without a traceback on stderr."""

    def full(self: logging.FileHandler, record: logging.LogRecord) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    os.close(daemon_log.begin(empty))
    monkeypatch.setattr(logging.FileHandler, "format", full)
    log.info("dropped")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["daemon.log", "daemon.log.1"])
def test_no_link_is_followed(empty: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A log that is a link is an error; as the old log it is replaced."""
    monkeypatch.setattr(daemon_log, "LOG_MAX", 10)
    target = empty.parent / "target"
    target.write_bytes(b"content of another program")
    (empty / "daemon.log").write_bytes(b"a line that is too long")
    (empty / name).unlink(missing_ok=True)
    (empty / name).symlink_to(target)
    if name == "daemon.log":
        with pytest.raises(StoreNotTrusted, match=f"{empty}/daemon.log .a symbolic link"):
            daemon_log.begin(empty)
    else:
        os.close(daemon_log.begin(empty))
        log.info("a new line")
        assert (empty / name).read_bytes() == b"s too long"
    assert target.read_bytes() == b"content of another program"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make stores of others")
def test_another_users_store(empty: Path) -> None:
    """Without trust it gets no log; with trust the log belongs to the store's owner."""
    for path in (empty, *empty.rglob("*")):
        os.chown(path, 4001, 4001)
    with pytest.raises(StoreNotTrusted):
        daemon_log.begin(empty)
    assert not (empty / "daemon.log").exists()
    os.close(daemon_log.begin(empty, trust=True))
    assert (empty / "daemon.log").stat().st_uid == 4001


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make stores of others")
def test_a_file_of_roots_in_another_users_store(empty: Path) -> None:
    """One that its owner moved there is not written, with trust neither."""
    for path in (empty, *empty.rglob("*")):
        os.chown(path, 4001, 4001)
    (empty / "daemon.log").write_bytes(b"of another program")
    with pytest.raises(StoreNotTrusted, match=r"daemon\.log .owned by user 0"):
        daemon_log.begin(empty, trust=True)
    assert (empty / "daemon.log").read_bytes() == b"of another program"
