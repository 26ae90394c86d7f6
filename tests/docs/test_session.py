"""The README's session is what a user sees now."""

import pytest

from tools.docs.session import PICTURE, README, block, draw, record, with_session


@pytest.mark.mount
def test_session(fuse: None) -> None:
    """Run again, the session prints what the README says, and the picture can be drawn."""
    session = record()
    assert with_session(README.read_text(), session) == README.read_text(), (
        "run `tools/run docs.session`"
    )
    assert block(session) in README.read_text()
    picture = draw(session)
    assert picture.startswith("<svg")
    assert picture.count("<text") >= PICTURE.read_text().count("<text") - 10


def test_readme_is_short() -> None:
    """The README has 100 to 130 lines."""
    assert 100 <= len(README.read_text().splitlines()) <= 130
