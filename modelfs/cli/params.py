"""The types of arguments and options."""

import os
import re
from pathlib import Path
from typing import Any, Final

import click

from modelfs.shell_word import shell_word
from modelfs.store.index.superblock import CHUNK_SIZE_MAX, CHUNK_SIZE_MIN

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b?)", re.IGNORECASE)
# Less is taken for a mistake: at this rate a TiB takes 34 years.
RATE_MIN: Final = 1 << 10
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Return a size in bytes.

    `4096`, `256MiB` and `4G` (for 4 GiB) count in 1,024s, `1.5GB` counts in 1,000s.

    Raises:
        ValueError: the text is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 256MiB")
    number, unit, suffix = match.groups()
    base = 1000 if suffix.lower() == "b" and unit else 1024
    return int(float(number) * base ** _POWERS[unit.lower()])


def size(text: str) -> int:
    """Convert the value of an option to a size in bytes."""
    try:
        return parse_size(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def chunk_size(text: str) -> int:
    """Convert the value of `--chunk-size`."""
    value = size(text)
    if not CHUNK_SIZE_MIN <= value <= CHUNK_SIZE_MAX or value % CHUNK_SIZE_MIN:
        raise click.BadParameter("must be a multiple of 4KiB, from 4KiB to 1GiB")
    return value


def rate(text: str) -> int:
    """Convert the value of `--rate`, in bytes per second."""
    if (value := size(text)) < RATE_MIN:
        raise click.BadParameter(f"must be at least {RATE_MIN >> 10}KiB")
    return value


class NonEmptyPath(click.Path):
    """A path, which click does not check: a mount whose daemon ended fails even stat(2)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            # pathlib takes it for the current folder.
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class Number(click.IntRange):
    """A number from `min` to `max`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not a number from {self.min} to {self.max}", param, ctx)


PATH: Final = NonEmptyPath(path_type=Path, readable=False)


def next_command(command: str, place: Path, *, trust: bool) -> str:
    """Return a command line for a message: it opens the same store, with the same trust."""
    return f"modelfs {command}{' --trust' if trust else ''} {shell_word(place)}"


trust = click.option(
    "--trust",
    is_flag=True,
    help="Open the store even if it belongs to another user, or if other users may write in its "
    "folder. They can then make this command do harm.",
)
