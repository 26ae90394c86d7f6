"""The prose of the package stays plain English, and that of the tests becomes it."""

from pathlib import Path
from typing import Final

import pytest

from tools.prose import Passage, count, mannerisms

# Of all docstrings and comments of tests. It may only fall.
MANNERISMS_OF_TESTS: Final = 102


def test_no_mannerisms() -> None:
    """Docstrings and comments have none of the mannerisms that `tools/prose.py` lists."""
    assert count().mannerisms == 0, "run `tools/run prose --list` to see them"


def test_few_mannerisms_in_tests() -> None:
    """Tests have no more mannerisms than they had, and the number here falls with them."""
    left = count(Path(__file__).parent).mannerisms
    assert left <= MANNERISMS_OF_TESTS, "run `tools/run prose --list tests` to see them"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The record says that the chunk is lost.", 1),
        ("A job knows neither trio nor threads.", 1),
        ("The row told gc of a pack, and said so.", 2),
        ('Any thread, if the docstring says "any thread".', 0),
        ("A known version, with a number of its own.", 0),
    ],
)
def test_things_do_not_talk(text: str, number: int) -> None:
    """A verb of speech or of knowledge is a mannerism, except before a quotation."""
    assert len(mannerisms(Passage(Path(), 1, text))) == number
