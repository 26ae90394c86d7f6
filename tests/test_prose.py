"""The prose of the package stays plain English."""

from tools.prose import count


def test_no_mannerisms() -> None:
    """Docstrings and comments have none of the mannerisms that `tools/prose.py` lists."""
    assert count().mannerisms == 0, "run `tools/run prose --list` to see them"
