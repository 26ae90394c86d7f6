r"""Paths in the commands that messages suggest.

Example. `/srv/m p` is `'/srv/m p'`, `-x` is `./-x`, and a name with a line feed is `$'a\x0ab'`.
"""

import os
import shlex


def shell_word(path: str | os.PathLike[str]) -> str:
    """Return a path as one word of a shell's command line, of printable characters only.

    The form with `$` is that of POSIX.1-2024 (XCU 2.2.4), which bash, zsh and ksh have.
    """
    text = os.fspath(path)
    if text.startswith("-"):
        text = f"./{text}"  # not an option
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_letter, text)) + "'"


def _letter(letter: str) -> str:
    if letter.isprintable() and letter not in "\\'":
        return letter
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))
