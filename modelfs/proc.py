"""Files of proc(5) as text.

They have the names of programs in them, which the kernel cuts after 15 bytes, also inside a letter,
and those of files and mounts. So there is no encoding to rely on, and a line may have more words
than its manual page has.

Example. A program has the name "записьмодели". Its status has the first 15 bytes of it,
which end inside a letter. `read` returns the line, and the byte as a surrogate.
"""

import os
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")


def read(*place: str | int) -> str:
    """Return the text of a file, such as `read(pid, "status")`.

    Bytes that are no text become surrogates, as in `os.fsdecode`.

    Raises:
        OSError: the process has ended, or its file may not be read.
    """
    return os.fsdecode(PROC.joinpath(*map(str, place)).read_bytes())


def lines(*place: str | int) -> list[str]:
    r"""Return the lines of a file, without their ends.

    Only "\n" ends a line: the kernel escapes it in names, but not "\f" or U+2028.

    Raises:
        OSError: as `read`.
    """
    return read(*place).removesuffix("\n").split("\n")


def processes() -> list[int]:
    """Return the numbers of all processes that this one sees."""
    return [int(folder.name) for folder in PROC.glob("[0-9]*")]
