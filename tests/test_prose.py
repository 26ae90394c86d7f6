"""The prose of the package stays plain English."""

from tools.prose import count

# Mannerisms in docstrings and comments: see `tools/prose.py`. Lower it when there are fewer.
MANNERISMS_MAX = 532
PER_THOUSAND_MAX = 18.0


def test_mannerisms_only_become_fewer() -> None:
    """There are no more mannerisms than there were, and the limit is what there are."""
    found = count()
    assert found.mannerisms <= MANNERISMS_MAX, "run `tools/run prose --list` to see them"
    assert found.mannerisms == MANNERISMS_MAX, "lower MANNERISMS_MAX"
    assert found.per_thousand <= PER_THOUSAND_MAX
