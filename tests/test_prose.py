"""The prose of the package stays plain English, and that of tests and pages becomes it."""

from pathlib import Path
from typing import Final

import pytest

from tools.prose import Passage, count, mannerisms, passages

# Of all docstrings and comments of tests. It may only fall.
MANNERISMS_OF_TESTS: Final = 102
# Of all pages in docs. It may only fall, too.
MANNERISMS_OF_DOCS: Final = 32
DOCS: Final = Path(__file__).parents[1] / "docs"


def test_no_mannerisms() -> None:
    """Docstrings and comments have none of the mannerisms that `tools/prose.py` lists."""
    assert count().mannerisms == 0, "run `tools/run prose --list` to see them"


def test_few_mannerisms_in_tests() -> None:
    """Tests have no more mannerisms than they had, and the number here falls with them."""
    left = count(Path(__file__).parent).mannerisms
    assert left <= MANNERISMS_OF_TESTS, "run `tools/run prose --list tests` to see them"


def test_few_mannerisms_in_pages() -> None:
    """The documentation has no more mannerisms than it had."""
    assert count(DOCS).mannerisms <= MANNERISMS_OF_DOCS, "run `tools/run prose --list docs`"


def test_code_in_pages_is_no_prose(tmp_path: Path) -> None:
    """Code, quotations and the targets of links do not count; tables and headings do."""
    page = tmp_path / "page.md"
    page.write_text(
        "## What it tells\n\n| what is stored |\n| --- |\n\n"
        'See `what is` and [this](#what-is-stored); never "nobody".\n\n```\nwho knows\n```\n'
    )
    found = [mannerism for passage in passages(page) for mannerism in mannerisms(passage)]
    assert len(found) == 3
    assert [passage.line for passage in passages(page)] == [1, 3, 6]


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
