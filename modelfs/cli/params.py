"""Kinds of arguments and options."""

import re
from pathlib import Path
from typing import Final

import click

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b?)", re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Return a number of bytes: `256MiB`, `4G` (GiB too), `1.5GB` (of 1,000), `4096`.

    Raises:
        ValueError: it is none of these.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a size such as 256MiB")
    number, unit, suffix = found.groups()
    base = 1000 if suffix.lower() == "b" and unit else 1024
    return int(float(number) * base ** _POWERS[unit.lower()])


def size(text: str) -> int:
    """Convert an option's value."""
    try:
        return parse_size(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


# Nothing is asked of the path here: a mount whose daemon died cannot even be looked at.
PATH: Final = click.Path(path_type=Path, readable=False)
