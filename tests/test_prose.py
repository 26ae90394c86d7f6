"""The prose of the package stays plain English."""

from typing import Final

from tools.prose import count

# Mannerisms in docstrings and comments: see `tools/prose.py`. Lower them when there are fewer.
MANNERISMS_MAX: Final = 79
PER_THOUSAND_MAX: Final = 2.0


def test_mannerisms_only_become_fewer() -> None:
    """There are no more mannerisms than there were."""
    prose = count()
    assert prose.mannerisms <= MANNERISMS_MAX, "run `tools/run prose --list` to see them"
    assert prose.per_thousand < PER_THOUSAND_MAX
