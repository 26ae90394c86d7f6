"""Is the prose of the package plain English? Counts its mannerisms.

    tools/run prose [--list] [FOLDER]

Words are those of docstrings and comments, and of Markdown, without literal blocks. A mannerism is
a relative clause where a noun exists, a pronoun for an unknown person, or a thing that talks. The
package has none, and `tests/test_prose.py` holds that. Each kind, and the plain English::

    what is stored                    the stored bytes
    for whoever reads it              for readers
    the index tells of a chunk        the index has a record of a chunk
    the record says that it is lost   it is recorded as lost

Only a text says something, and in quotation marks.
"""

import argparse
import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).resolve().parents[1] / "modelfs"

MANNERISM: Final = re.compile(
    r"""
    \bwhat(?:ever)?\s+
        (?:is|are|was|were|has|have|had|it|its|they|he|she|we|you|a|an|the|that|this|these|those
        |there|one|each|some|others?|another|comes?|can|could|may|must|would|will|does|did|do)\b
    | \b(?:nobody|somebody|whoever|whomever|whom)\b
    | \b(?:for|to|of|by|with|from)\s+who\b
    | ^who\b
    | \b(?:tells?|told|telling|knows?|knew)\b
    | \b(?:says?|said|saying)\b(?!\s+["'])
    | \banew\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
# Of Markdown: code, quotations, and the targets of links.
LITERAL: Final = re.compile(r"```.*?```|`[^`\n]*`|\"[^\"\n]{,60}\"|\]\([^)]*\)", re.DOTALL)
DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
WORD: Final = re.compile(r"[A-Za-z][A-Za-z'-]*")


@dataclass(frozen=True, slots=True)
class Passage:
    """A docstring, the comments of neighbouring lines, or a paragraph of Markdown."""

    path: Path
    line: int
    text: str


def files(folder: Path) -> list[Path]:
    """Return the files of a folder that have prose."""
    return sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".md"))


def passages(path: Path) -> Iterator[Passage]:
    """Yield the prose of a file of Python or Markdown."""
    source = path.read_text()
    if path.suffix == ".md":
        yield from _paragraphs(path, source)
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            yield Passage(path, getattr(node, "lineno", 1), _without_literals(text))
    for comments in _neighbours(_comments(source)):
        yield Passage(path, comments[0][0], " ".join(text for _, text in comments))


def _paragraphs(path: Path, source: str) -> Iterator[Passage]:
    text = LITERAL.sub(lambda found: "\n" * found[0].count("\n") or "-", source)
    line = 1
    for paragraph in text.split("\n\n"):
        if paragraph.strip():
            yield Passage(path, line, paragraph)
        line += paragraph.count("\n") + 2


def _comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(noqa|type:|!)", token.string):
            yield token.start[0], token.string.lstrip("# ")


def _neighbours(comments: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    group: list[tuple[int, str]] = []
    for line, text in comments:
        if group and line != group[-1][0] + 1:
            yield group
            group = []
        group.append((line, text))
    if group:
        yield group


def _without_literals(text: str) -> str:
    # Literal blocks and tables are layouts and code.
    kept: list[str] = []
    literal: int | None = None
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if literal is not None and (not line.strip() or indent > literal):
            continue
        literal = indent if line.rstrip().endswith("::") else None
        if not re.match(r"\s*[=-]{3,}[\s=-]*$", line):
            kept.append(line)
    return " ".join(kept)


def mannerisms(passage: Passage) -> list[str]:
    """Return the mannerisms of a passage, each with its neighbouring words."""
    text = " ".join(passage.text.split())
    return [
        text[max(0, match.start() - 30) : match.end() + 30] for match in MANNERISM.finditer(text)
    ]


@dataclass(frozen=True, slots=True)
class Count:
    """How many words a folder's prose has, and how many mannerisms."""

    words: int
    mannerisms: int

    @property
    def per_thousand(self) -> float:
        return 1000 * self.mannerisms / max(1, self.words)


def count(folder: Path = PACKAGE) -> Count:
    """Count the prose of all files in a folder."""
    texts = [passage for path in files(folder) for passage in passages(path)]
    words = sum(len(WORD.findall(passage.text)) for passage in texts)
    return Count(words, sum(len(mannerisms(passage)) for passage in texts))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tools/run prose", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--list", action="store_true", help="print each mannerism, too")
    parser.add_argument("folder", nargs="?", type=Path, default=PACKAGE)
    options = parser.parse_args()
    if options.list:
        for path in files(options.folder):
            for passage in passages(path):
                for mannerism in mannerisms(passage):
                    print(f"{path}:{passage.line}: ...{mannerism}...")
    total = count(options.folder)
    print(
        f"{total.words:,} words, {total.mannerisms:,} mannerisms: "
        f"{total.per_thousand:.1f} per 1,000 words"
    )


if __name__ == "__main__":
    main()
