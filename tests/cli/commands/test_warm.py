"""`modelfs warm`."""

from pathlib import Path

import pytest

from modelfs.cli.commands import warm as warm_command
from modelfs.cli.places import find_store
from tests.support.fake_daemon import Call, Fake

HOT = {"result": {"files": 1, "bytes": 3_000_000}}
COLD = {"result": {"files": 0, "bytes": 0}}


@pytest.fixture
def files(empty: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with two files, as if it were mounted."""
    monkeypatch.setattr(warm_command, "files_below", lambda _: (find_store(empty), [7, 8]))
    return empty


def test_warm(call: Call, fake: Fake, files: Path) -> None:
    """Each file is asked for, and the sums are shown."""
    daemon = fake(warm=[HOT])
    done = call("warm", "anything")
    assert (done.code, done.out) == (0, "hot: 2 files, 5.72 MiB\n")
    assert [request["inode"] for request in daemon.requests] == [7, 8]


def test_files_that_stay_cold(call: Call, fake: Fake, files: Path) -> None:
    """The reasons that there can be are named."""
    fake(warm=[COLD])
    done = call("warm", "anything")
    assert done.code == 0
    assert done.out.startswith("hot: 0 files, 0 B\nnot hot: 2 files, below 1 MiB, ")


def test_without_a_daemon(call: Call, files: Path) -> None:
    assert "no daemon serves" in call("warm", "anything").error


def test_a_path_outside_of_a_mount(call: Call, tmp_path: Path) -> None:
    """The error has the next step."""
    error = call("warm", tmp_path).error
    assert error == f"{tmp_path} is not in a modelfs mount; name files or folders in one"
