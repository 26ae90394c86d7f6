"""The manual pages: complete, up to date, and good roff."""

import dataclasses
import subprocess
from pathlib import Path

import click
import pytest

from modelfs.cli.main import COMMANDS
from modelfs.codecs.base import CodecId
from modelfs.jobs.check.findings import Finding, Severity
from modelfs.jobs.inspect.report import Base, FileReport, FormShare, Sharer, TensorReport
from modelfs.jobs.repair.context import Action, Outcome
from modelfs.jobs.scrub.scrubber import ScrubStatus
from modelfs.store.chunks.cache import CacheStatistics
from modelfs.store.statistics import FORMER_KEYS, Statistics
from tools.docs.__main__ import is_stale
from tools.docs.man import ALIASES, PAGES, SOURCES, command_of, update
from tools.docs.roff import to_roff

NAMES = sorted({path.name for path in PAGES.iterdir()} - ALIASES.keys())
COMMAND_PAGES = [name for name in NAMES if name != "modelfs-store.5"]
LINTERS = {
    "mandoc": ("mandoc", "-T", "lint", "-W", "warning"),
    "groff": ("groff", "-man", "-Tutf8", "-t", "-ww", "-z", "-"),
}
# The records that `--json` prints, by the page that explains their fields.
RECORDS = {
    "modelfs-stats.1": (Statistics, CacheStatistics),
    "modelfs-inspect.1": (FileReport, TensorReport, FormShare, Sharer, Base),
    "modelfs-scrub.8": (ScrubStatus,),
    "modelfs-fsck.8": (Finding, Action),
}
ONE_LONG_PAGE = ".pl 500i\n"  # as on a terminal; groff reads it before the file


def roff(text: str) -> str:
    return to_roff(f"# page(1)\n\n{text}", date="today", source="modelfs", manual="Manual")


def rendered(page: Path) -> str:
    command = ("mandoc", "-T", "ascii", page)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    bold_and_italic = done.stdout
    while (at := bold_and_italic.find("\b")) > 0:
        bold_and_italic = bold_and_italic[: at - 1] + bold_and_italic[at + 1 :]
    return bold_and_italic


def test_every_command_has_a_page() -> None:
    """There is a page for modelfs, for each command, and for the format; and no other."""
    about = {name.rpartition(".")[0] for name in NAMES}
    assert about == {"modelfs", "modelfs-store", *(f"modelfs-{name}" for name in COMMANDS)}


def test_regenerating_changes_nothing() -> None:
    """Options and roff are those of the commands and of the Markdown as they are now."""
    stale = [str(path) for path, text in update() if is_stale(path, text)]
    assert not stale, "run `tools/run docs`"


def test_no_page_is_left_over() -> None:
    """Every roff page has a source."""
    assert {path for path, _ in update()} >= set(PAGES.iterdir())


@pytest.mark.parametrize("name", ALIASES)
def test_aliases(name: str) -> None:
    """A second name of a page shows it, and the page has that name."""
    shown = PAGES / (PAGES / name).read_text().removeprefix(".so man8/").strip()
    assert name.rpartition(".")[0] in rendered(shown)


@pytest.mark.parametrize("name", COMMAND_PAGES)
def test_every_option_is_shown(name: str) -> None:
    """What a terminal shows of a page has every option of its command, and its help."""
    page = " ".join(rendered(PAGES / name).split())
    for parameter in command_of(name.rpartition(".")[0]).params:
        if isinstance(parameter, click.Option):
            assert parameter.help is not None
            assert " ".join(parameter.help.split()[:3]) in page
            for option in parameter.opts:
                assert option in page


@pytest.mark.parametrize("linter", LINTERS)
@pytest.mark.parametrize("name", NAMES)
def test_lint(name: str, linter: str) -> None:
    """Neither formatter has anything to say about a page."""
    command = (*LINTERS[linter], str(PAGES / name))
    done = subprocess.run(
        command, input=ONE_LONG_PAGE, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_pages_that_are_named_exist(name: str) -> None:
    """Another page of modelfs that a page names is there."""
    for word in rendered(PAGES / name).replace(",", " ").split():
        if word.startswith("modelfs-") and word.endswith((")", ").")):
            title, _, section = word.rstrip(").").partition("(")
            assert f"{title}.{section}" in NAMES


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_of_json_is_explained(name: str) -> None:
    """Every key that `--json` prints is in the page of its command."""
    page = (SOURCES / f"{name}.md").read_text()
    for record in RECORDS[name]:
        for field in dataclasses.fields(record):
            assert f"`{field.name}`" in page


@pytest.mark.parametrize("name", NAMES)
def test_examples_fit_a_terminal(name: str) -> None:
    """No line of a page is wider than 80 columns, commands included."""
    too_wide = [line for line in rendered(PAGES / name).splitlines() if len(line) > 80]
    assert not too_wide


def test_former_keys_forms_and_outcomes() -> None:
    """Former keys, forms, severities and outcomes are in the pages, too."""
    stats = (SOURCES / "modelfs-stats.1.md").read_text()
    forms = {each.name.lower() for each in CodecId} - {"raw"} | {"plain"}
    assert all(f"`{name}`" in stats for name in {*FORMER_KEYS, *forms})
    fsck = (SOURCES / "modelfs-fsck.8.md").read_text()
    assert all(each.value in fsck for each in (*Severity, *Outcome))


def test_sources_are_in_the_manual_section_of_their_name() -> None:
    """The title of each page agrees with its file's name."""
    for source in SOURCES.glob("*.md"):
        name, section, _ = source.name.split(".")
        assert source.read_text().startswith(f"# {name}({section})\n")


def test_rules() -> None:
    """Each kind of Markdown becomes its roff."""
    assert roff("## Name\n\na - b\n").endswith(".SH NAME\na \\- b\n")
    assert roff("text\n\nmore\n").endswith("text\n.PP\nmore\n")
    assert roff("- **--a**\\\n  text\n").endswith(".TP\n\\fB\\-\\-a\\fR\ntext\n")
    assert roff("- text\n").endswith(".IP \\(bu 2\ntext\n")
    assert roff("1. text\n2. more\n").endswith(".IP 1. 4\ntext\n.IP 2. 4\nmore\n")
    assert roff("```\n.a-b\\c\n```\n").endswith(".RS 4\n.EX\n\\&.a\\-b\\ec\n.EE\n.RE\n")
    table = ".TS\nl l.\n\\fIa\\fR\t\\fIb\\fR\nc\t\n.TE\n"
    assert roff("| a | b |\n| - | - |\n| c | |\n").endswith(table)
    assert roff("<!-- no text -->\n").endswith('"Manual"\n')


@pytest.mark.parametrize(
    "text", ["> quoted", "<p>", "caf\u00e9", "![a](b)", "- a\n  - b", "**a=***B*"]
)
def test_unknown_markdown(text: str) -> None:
    """Markdown that no rule is for is refused."""
    with pytest.raises(ValueError, match=r" in |near|HTML|ASCII"):
        roff(text)
