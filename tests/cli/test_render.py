"""Sizes, tables and names in the output."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.cli.render import add_row, counted, human_size, new_table, percent, show_table


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (10 * 1024 - 1, "10.0 KiB"),
        (12_900_000, "12.3 MiB"),
        (655 << 20, "655 MiB"),
        ((1 << 20) - 1, "1.00 MiB"),
        ((1 << 30) - 1, "1.00 GiB"),
        (1 << 70, "1024 EiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    """A size has three digits and the unit that leaves it below 1,024."""
    assert human_size(size) == text


@given(st.integers(0, 1 << 63))
def test_sizes_are_short(size: int) -> None:
    """No size takes more than nine columns."""
    assert len(human_size(size)) <= 9


def test_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets in a name are not taken for markup, and no line is folded in a file."""
    table = new_table("name")
    add_row(table, "[red]x[/red] :smile: " + "y" * 300)
    show_table(table)
    assert "[red]x[/red] :smile: " + "y" * 300 in capsys.readouterr().out


def test_no_spaces_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines in a file end with their text."""
    table = new_table("name", "form")
    add_row(table, "a", "plain")
    add_row(table, "longer", "")
    show_table(table)
    assert all(line == line.rstrip() for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("width", [80, 200])
def test_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """No cell is broken: a table that is too wide has a block of lines for each row."""
    name = "encoder.layer.5.attention.self.query.weight"
    table = new_table("tensor", "shape", "derived from", "none")
    base = "/home/models/" + "base" * 9
    add_row(table, name, "384 x 384", base, "")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    show_table(table)
    lines = [line.rstrip() for line in terminal.getvalue().splitlines()]
    if width == 80:
        assert lines == [
            name,
            "  shape         384 x 384",
            f"  derived from  {base}",
        ]
    else:
        assert [name, "384", "x", "384", base] in map(str.split, lines)


def test_counted() -> None:
    """A number comes with its noun, in the plural unless it is one."""
    assert [counted(n, "file") for n in (0, 1, 2345)] == ["0 files", "1 file", "2,345 files"]


def test_percent_of_nothing() -> None:
    """A share of nothing is no number."""
    assert (percent(1, 3), percent(0, 0)) == ("33.3 %", "-")
