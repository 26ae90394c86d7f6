"""Sizes on the command line."""

import pytest

from modelfs.cli.params import parse_size


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
