"""Text that others chose is shown as one line that a terminal does not obey."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.cli.escape import plain

# The names of files, as Python has them, and those of tensors, which may have any surrogate.
NAMES = st.binary().map(os.fsdecode) | st.text(st.characters())
SURROGATES = range(0xD800, 0xE000)


@given(NAMES)
def test_names_are_harmless(name: str) -> None:
    """Any name, of bytes or of a tensor, is shown as one line of printable characters."""
    assert plain(name).isprintable()
    plain(name).encode()


@given(NAMES)
def test_an_escaped_name_stays(name: str) -> None:
    """Text that has been escaped is not changed by a second time."""
    assert plain(plain(name)) == plain(name)


def test_names_are_readable() -> None:
    """Letters of all languages are shown unchanged, all else as escapes."""
    assert plain("模型.safetensors") == "模型.safetensors"
    assert plain("a\x1b[31m\n") == "a\\x1b[31m\\n"
    assert plain("caf\udce9") == "caf\\xe9"


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\\")))
def test_escapes_are_those_of_python(text: str) -> None:
    """The output, read as a string of Python, is the text, if that has no backslash."""
    ascii_only = plain(text).encode("ascii", "backslashreplace")
    assert ascii_only.decode("unicode_escape") == text


@given(st.binary().filter(lambda name: b"\\" not in name))
def test_bytes_that_are_no_text_are_shown_as_numbers(name: bytes) -> None:
    """Of a name that is not UTF-8, the wrong bytes are escapes, and the rest is text."""
    shown = plain(os.fsdecode(name)).encode("ascii", "backslashreplace")
    assert shown.decode("unicode_escape") == "".join(
        chr(ord(letter) - 0xDC00) if ord(letter) in SURROGATES else letter
        for letter in os.fsdecode(name)
    )


@pytest.mark.parametrize(
    ("character", "shown"),
    [
        ("\0", "\\x00"),
        ("\r", "\\r"),
        ("\t", "\\t"),
        ("\x7f", "\\x7f"),
        ("\x9b", "\\x9b"),  # the other beginning of an escape sequence
        ("\u202e", "\\u202e"),  # from here on the line would run from right to left
        ("\u2028", "\\u2028"),
        ("\u200b", "\\u200b"),
        ("\xa0", "\\xa0"),
        ("\U000e0041", "\\U000e0041"),
    ],
    ids=ascii,
)
def test_characters_that_change_a_line(character: str, shown: str) -> None:
    """Characters that end, reorder or hide a part of a line are escapes."""
    assert plain(f"a{character}b") == f"a{shown}b"


def test_bytes_that_hide_a_control_character() -> None:
    """Undecoded bytes that are a control character together are no more harmful than it."""
    assert plain("\udcc2\udc9b31m") == "\\x9b31m"


def test_surrogates_of_no_byte() -> None:
    """A name with a surrogate that stands for no byte has a question mark for each."""
    assert plain("a\ud800\udce9b") == "a??b"
    for number in SURROGATES:
        letter = chr(number)
        assert unicodedata.category(letter) == "Cs"
        is_byte = 0xDC80 <= number < 0xDD00
        assert plain(letter) == (f"\\x{number - 0xDC00:02x}" if is_byte else "?")
