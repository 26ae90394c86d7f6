import subprocess
from pathlib import Path
from typing import Any

import pytest

from tools.bench.space.classes import Class, classes, identical_bytes
from tools.bench.space.peers import WRITABLE, Peer, Weighed, disk_bytes, missing, weigh


def statistics(**forms: tuple[int, int]) -> dict[str, Any]:
    """Return an output of `modelfs stats --json` for 1,000 bytes of files, 300 of them shared."""
    return {
        "logical_bytes": 1000,
        "shared_bytes": 300,
        "stored_bytes": sum(stored for _, stored in forms.values()),
        "forms": {
            name: {"chunks": 1, "raw_bytes": raw, "stored_bytes": stored}
            for name, (raw, stored) in forms.items()
        },
    }


def test_classes_add_up() -> None:
    """Every byte of the files is in one class, and so is every stored byte."""
    found = classes(statistics(plain=(100, 100), zstd=(50, 20), delta=(550, 200)), 120)
    assert found == [
        Class("identical file", 120, 0),
        Class("identical tensor", 180, 0),
        Class("transpose", 0, 0),
        Class("cast", 0, 0),
        Class("quantise", 0, 0),
        Class("delta", 550, 200),
        Class("factored", 0, 0),
        Class("planes", 0, 0),
        Class("other", 150, 120),
    ]


def test_files_that_share_less_than_their_size() -> None:
    """Identical files count up to the shared bytes only, as holes in them are not stored."""
    found = classes(statistics(plain=(700, 700)), 350)
    assert [each.logical for each in found] == [300, 0, 0, 0, 0, 0, 0, 0, 700]


def test_identical_files_count_from_the_second_on() -> None:
    assert identical_bytes([("a", 5), ("b", 7), ("a", 5), ("a", 5)]) == 10


def kept(corpus: Path, place: Path) -> int:
    (place / "kept").write_bytes(b"x" * 10)
    return 10


def test_what_a_peer_took(tmp_path: Path) -> None:
    """A peer's bytes and seconds are returned, and its files are removed."""
    weighed = weigh(Peer("p", WRITABLE, {}, kept), tmp_path, tmp_path)
    assert weighed.stored == 10
    assert weighed.seconds is not None
    assert list(tmp_path.iterdir()) == []


def test_a_peer_that_is_not_installed(tmp_path: Path) -> None:
    """A peer whose program is missing has the reason, and no numbers."""
    peer = Peer("p", WRITABLE, {"no-such-program": "a-package", "sh": "dash"}, kept)
    assert missing(peer) == ["a-package"]
    assert weigh(peer, tmp_path, tmp_path) == Weighed("p", WRITABLE, note="needs a-package")


def test_a_peer_that_fails(tmp_path: Path) -> None:
    """A peer's failure is the reason in its row, raises no error, and leaves no files."""

    def fails(corpus: Path, place: Path) -> int:
        raise subprocess.CalledProcessError(1, "p", stderr="one\nthe reason\n")

    weighed = weigh(Peer("p", WRITABLE, {}, fails), tmp_path, tmp_path)
    assert weighed == Weighed("p", WRITABLE, note="failed: the reason")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 10_000])
def test_disk_bytes_are_those_of_du(tmp_path: Path, size: int) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_bytes(b"x" * size)
    du = subprocess.run(
        ["du", "-s", "--block-size=1", tmp_path], capture_output=True, text=True, check=True
    )
    assert disk_bytes(tmp_path) == int(du.stdout.split()[0])
