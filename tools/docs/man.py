"""Manual pages: Markdown with parts that come from the commands, and roff made of it.

A page's text is written by hand in `docs/man`. Between `<!-- begin: options -->` and `<!-- end -->`
stand the options of its command as click has them, between `<!-- begin: synopsis -->` and
`<!-- end -->` its usage, and between `<!-- begin: commands -->` and `<!-- end -->` all commands.
The roff pages lie in `man/`, from where the wheel installs them.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from modelfs.cli.main import COMMANDS, cli
from tools.docs.roff import to_roff

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCES: Final = ROOT / "docs" / "man"
PAGES: Final = ROOT / "man"
# The fifth section's page is the format's own.
FORMAT: Final = ROOT / "docs" / "format.md"

DATE: Final = "2026-11-28"
SOURCE: Final = "modelfs 0.2"
MANUALS: Final = {"1": "User Commands", "5": "File Formats", "8": "System Administration"}
# Pages that show another one.
ALIASES: Final = {"mount.modelfs.8": "modelfs-mount.8"}
PART: Final = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def update() -> Iterator[tuple[Path, str]]:
    """Yield each generated file, and the text that it should have."""
    for source in sorted(SOURCES.glob("*.md")):
        text = with_parts(source.read_text(), source.name.split(".")[0])
        yield source, text
        yield _page(source.name.removesuffix(".md"), text)
    yield _page("modelfs-store.5", FORMAT.read_text())
    for alias, page in ALIASES.items():
        yield PAGES / alias, f".so man{page.rpartition('.')[2]}/{page}\n"


def _page(name: str, text: str) -> tuple[Path, str]:
    manual = MANUALS[name.rpartition(".")[2]]
    return PAGES / name, to_roff(text, date=DATE, source=SOURCE, manual=manual)


def with_parts(text: str, page: str) -> str:
    """Return a page's Markdown with its generated parts as they should be."""

    def part(match: re.Match[str]) -> str:
        return match[1] + "\n".join(PARTS[match[2]](page)) + "\n" + match[3]

    return PART.sub(part, text)


def command_of(page: str) -> click.Command:
    """Return the command that a page is about: `modelfs` itself, or one of its commands."""
    name = page.partition("-")[2]
    if not name:
        return cli
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def synopsis(page: str) -> Iterator[str]:
    """Yield the usage of a page's command."""
    command = command_of(page)
    with _context(command, page) as context:
        pieces = " ".join(command.collect_usage_pieces(context))
    yield f"**{page.replace('-', ' ')}** " + re.sub(r"[A-Z|]{2,}", r"*\g<0>*", pieces)


def options(page: str) -> Iterator[str]:
    """Yield the options of a page's command as list items."""
    command = command_of(page)
    with _context(command, page) as context:
        for parameter in command.get_params(context):
            if isinstance(parameter, click.Option):
                yield from _option(parameter, context)


def _context(command: click.Command, page: str) -> click.Context:
    # click keeps the option of the first context: it has these names in the program.
    return click.Context(command, info_name=page, help_option_names=["-h", "--help"])


def _option(option: click.Option, context: click.Context) -> Iterator[str]:
    names = ", ".join(f"**{name}**" for name in sorted(option.opts, key=len))
    value = "" if option.is_flag or option.count else f" *{option.make_metavar(context)}*"
    extra = option.get_help_extra(context)
    notes = [f"Default: {extra['default'].strip('()')}."] if "default" in extra else []
    notes += [f"Range: {extra['range'].replace('<=x<=', ' to ')}."] if "range" in extra else []
    yield f"- {names}{value}\\"
    yield f"  {' '.join([_prose(option.help or ''), *notes])}"


def commands(_: str) -> Iterator[str]:
    """Yield all commands as list items."""
    for name in COMMANDS:
        command = command_of(f"modelfs-{name}")
        section = next(SOURCES.glob(f"modelfs-{name}.*.md")).name.split(".")[1]
        yield f"- **modelfs-{name}**({section})\\"
        yield f"  {_prose((command.help or '').splitlines()[0])}"


PARTS: Final = {"synopsis": synopsis, "options": options, "commands": commands}


def _prose(text: str) -> str:
    # An asterisk of a help text is one, such as in `x-*`.
    return text.replace("*", r"\*")
