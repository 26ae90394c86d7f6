"""The Markdown pages: links lead somewhere, and commands are ones that exist."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import click
import pytest

from modelfs.cli.main import COMMANDS, cli
from tests.support.paths import CHECKOUT

PAGES: Final = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "tests/data/**/*.md")
    for path in CHECKOUT.glob(pattern)
)
FENCE: Final = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
CODE: Final = re.compile(r"`([^`\n]+)`")
LINK: Final = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
SHELL: Final = frozenset({"", "sh", "console"})
# Where a line of the shell has one command behind another.
BETWEEN: Final = re.compile(r"\s*(?:&&|\|\||[|;&])\s*|\bdo\s+|\$\(")
FOLDERS: Final = ("tests/", "tools/", "modelfs/", "docs/", "systemd/")

pages = pytest.mark.parametrize(
    "page", PAGES, ids=[str(path.relative_to(CHECKOUT)) for path in PAGES]
)


def prose(text: str) -> str:
    """Return a page without its blocks of code."""
    return FENCE.sub("", text)


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")


@cache
def anchors(page: Path) -> frozenset[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page.read_text()), re.MULTILINE)
    return frozenset(map(slug, headings))


@pages
def test_links(page: Path) -> None:
    """Every link within the project leads to a file that is there, and to a heading in it."""
    for link in LINK.findall(prose(page.read_text())):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(CHECKOUT), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_found() -> None:
    """Every page is linked from another one."""
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in LINK.findall(prose(page.read_text()))
    }
    here = {page for page in PAGES if page.is_relative_to(CHECKOUT / "docs")}
    assert here <= linked


# -- commands


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command that a page shows, in blocks and in the text."""
    lines = [code for code in CODE.findall(prose(text)) if " " in code]
    for kind, block in FENCE.findall(text):
        if kind in SHELL:
            lines += block.replace("\\\n", " ").splitlines()
    for line in lines:
        for part in BETWEEN.split(line.strip().removeprefix("$ ")):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:
                continue  # no shell's: a layout, or an output
            while words and "=" in words[0]:
                del words[0]  # variables of the environment
            if words:
                yield words


def check_modelfs(words: list[str]) -> None:
    name, *rest = [word for word in words[1:] if word not in ("...", "")] or [""]
    if name in ("COMMAND", "store", "store,") or not name:
        return  # a placeholder, and the text of the file FORMAT
    if name.startswith("-"):
        assert name in {option for parameter in cli.params for option in parameter.opts}
        return
    assert name in COMMANDS, words
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    context = click.Context(command, help_option_names=["-h", "--help"])
    known = {option for parameter in command.get_params(context) for option in parameter.opts}
    assert {word for word in rest if word.startswith("-")} <= known, words


@cache
def scripts() -> frozenset[str]:
    """Return the names that `tools/run` knows."""
    done = subprocess.run(
        [CHECKOUT / "tools" / "run"], capture_output=True, text=True, check=False, timeout=30
    )
    return frozenset(done.stderr.split("one of\n")[1].split())


def check_run(words: list[str]) -> None:
    if len(words) == 1 or words[1] == "NAME":
        return
    assert words[1] in scripts(), words
    path = CHECKOUT / "tools" / words[1].replace(".", "/")
    sources = [*path.glob("*.py")] if path.is_dir() else [path.with_suffix(".py")]
    if path.with_name("environment").exists() or (path / "environment").exists():
        return  # a shell script with options of its own
    text = "".join(source.read_text() for source in sources)
    for word in words[2:]:
        assert not word.startswith("--") or word == "--help" or f'"{word}"' in text, words


def check_test(words: list[str]) -> None:
    for word in words[1:]:
        if "/" in word:
            assert (CHECKOUT / word).exists(), words


@pages
def test_commands(page: Path) -> None:
    """Commands, options, scripts and paths of tests that a page shows are ones that exist."""
    checks = {
        "modelfs": check_modelfs,
        "/opt/modelfs/bin/modelfs": check_modelfs,
        "tools/run": check_run,
        "tools/test": check_test,
    }
    for words in commands(page.read_text()):
        if (check := checks.get(words[0])) is not None:
            check(words)


@pages
def test_paths(page: Path) -> None:
    """Files of the project that a page names exist."""
    for code in CODE.findall(prose(page.read_text())):
        path = code.split()[0]
        if path.startswith(FOLDERS) and not set(path) & set("*<>NAME{"):
            assert (CHECKOUT / path).exists(), code


def test_commands_are_found() -> None:
    """Commands are found in blocks and in the text, behind variables and other commands."""
    text = "`modelfs gc x`\n```sh\n$ A=1 modelfs sync m && modelfs umount m  # end\nls\n```\n"
    assert [*commands(text)] == [
        ["modelfs", "gc", "x"],
        ["modelfs", "sync", "m"],
        ["modelfs", "umount", "m"],
        ["ls"],
    ]
    for wrong in (["modelfs", "list"], ["modelfs", "gc", "--now"], ["tools/run", "none"]):
        with pytest.raises(AssertionError):
            (check_modelfs if wrong[0] == "modelfs" else check_run)(wrong)
