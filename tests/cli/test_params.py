"""Sizes on the command line."""

import pytest

from modelfs.cli.params import parse_size
from tests.support.fake_daemon import Call


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("4k", 4096),
        ("4KiB", 4096),
        ("4KB", 4000),
        ("256MiB", 256 << 20),
        ("4G", 4 << 30),
        ("4GB", 4 * 10**9),
        ("1.5 GiB", 3 << 29),
        ("2tib", 2 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """A bare unit and its -iB form count in 1,024s, its -B form in 1,000s."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5.5", "4 potatoes", "4PiBs", "1e9", "GiB"])
def test_no_sizes(text: str) -> None:
    """A text that is not a size is refused by name."""
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["mkfs", ""], "the path is empty"),
        (["stats", ""], "the path is empty"),
        (["optimize", "--depth", "x", "store"], "'x' is not a number from 1 to 4"),
        (["optimize", "--depth", "9", "store"], "'9' is not a number from 1 to 4"),
    ],
)
def test_arguments_that_are_none(call: Call, arguments: list[str], problem: str) -> None:
    """An empty path is not the current folder, and a number has its bounds in its error."""
    done = call(*arguments)
    assert done.code == 2
    assert problem in done.err
