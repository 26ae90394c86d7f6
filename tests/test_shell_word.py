"""Paths as words of a shell's command line."""

import ast
import os
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from modelfs.shell_word import shell_word
from tests.support.paths import CHECKOUT

# A path in a command line, in the source of a text with values.
PATH: Final = re.compile(
    r"(?:modelfs (?:mkfs|mount|umount|fsck|scrub|sync|stats|gc|optimize)|umount|fuser"
    r"|mkdir(?: -m \{[^}]*\})?|chmod(?: -R)? [-+=\w]+|chown(?: -R)? \{\w+\})(?: -[-\w]+)*"
    r" \{([^}]*)\}"
)


@pytest.mark.parametrize(
    ("path", "word"),
    [
        (Path("/srv/models"), "/srv/models"),
        ("/srv/m p", "'/srv/m p'"),
        ("it's", """'it'"'"'s'"""),
        ("~", "'~'"),
        ("$(x) `y` *", "'$(x) `y` *'"),
        ("a\nb", r"$'a\x0ab'"),
        ("'\\\x1b[0m", r"$'\x27\x5c\x1b[0m'"),
        ("\udcffé\u202e", r"$'\xffé\xe2\x80\xae'"),
    ],
)
def test_a_shell_reads_the_path_back(path: str | Path, word: str) -> None:
    """A word is printable, and bash takes it for the path."""
    assert shell_word(path) == word
    assert word.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], stdout=subprocess.PIPE, check=True)
    assert done.stdout == os.fsencode(path)


def test_a_name_that_looks_like_an_option() -> None:
    """It begins with the folder that it is in."""
    assert shell_word("-x y") == "'./-x y'"


@pytest.mark.parametrize("file", sorted((CHECKOUT / "modelfs").rglob("*.py")), ids=str)
def test_the_paths_of_suggested_commands(file: Path) -> None:
    """Each path in a command of a message is a word of a shell."""
    for text in ast.walk(ast.parse(file.read_text())):
        if isinstance(text, ast.JoinedStr):
            for path in PATH.findall(_source(text)):
                assert path.startswith("shell_word("), ast.unparse(text)


def _source(text: ast.JoinedStr) -> str:
    return "".join(
        f"{{{ast.unparse(part.value)}}}"
        if isinstance(part, ast.FormattedValue)
        else str(part.value)
        for part in text.values
        if isinstance(part, ast.FormattedValue | ast.Constant)
    )
