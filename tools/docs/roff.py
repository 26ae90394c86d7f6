r"""From the Markdown of a manual page to roff, as man(7) has it.

The Markdown is of a small kind, so that it reads well on the web and in a terminal::

    # modelfs-mount(8)            the page's name and section
    ## Options                    a section, in capitals on a terminal
    ### Of the kernel             a sub-section
    - **--limit** *SIZE*\          a list item with a hard line break: a tagged paragraph
      How much ...
    - text                        any other list item: a bullet

Paragraphs, fenced code and tables are as in other Markdown. Anything else raises `ValueError`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

TITLE: Final = re.compile(r"([\w.-]+)\((\d)\)")
PARSER: Final = MarkdownIt("commonmark").enable("table")
BOLD: Final = r"\fB"
MARKS: Final = {
    "strong_open": BOLD,
    "em_open": r"\fI",
    "strong_close": r"\fR",
    "em_close": r"\fR",
    "softbreak": "\n",
    "hardbreak": "\n",
}
# A column of a table is folded if it has a cell of more characters.
CELL_MAX: Final = 32


def to_roff(markdown: str, *, date: str, source: str, manual: str) -> str:
    """Return a manual page.

    Args:
        markdown: its text; the title says name and section.
        date: of the page.
        source: the program and its version, for the foot.
        manual: the manual's name, for the head.

    Raises:
        ValueError: the text has something that no rule is for.
    """
    return "\n".join(_Page(PARSER.parse(markdown), (date, source, manual)).lines()) + "\n"


class _Page:
    """The tokens of a page, gone through once."""

    def __init__(self, tokens: Sequence[Token], foot: tuple[str, str, str]) -> None:
        self._tokens = iter(tokens)
        self._foot = foot
        self._tables = any(token.type == "table_open" for token in tokens)
        self._section = ""
        self._fresh = True  # nothing since the last heading or tag: no break is wanted

    def lines(self) -> Iterator[str]:
        if self._tables:
            yield "'\\\" t"
        yield '.\\" Made by tools/run docs. Change the Markdown, not this.'
        blocks: dict[str, Callable[[Token], Iterator[str]]] = {
            "heading_open": self._heading,
            "paragraph_open": self._paragraph,
            "fence": self._code,
            "bullet_list_open": self._list,
            "ordered_list_open": self._list,
            "table_open": self._table,
            "html_block": self._nothing,
        }
        for token in self._tokens:
            if (block := blocks.get(token.type)) is None:
                raise ValueError(f"{token.type} near line {(token.map or [0])[0] + 1}")
            yield from block(token)

    def _nothing(self, token: Token) -> Iterator[str]:
        if not token.content.startswith("<!--"):
            raise ValueError(f"HTML: {token.content!r}")
        yield from ()

    def _until(self, kind: str) -> Iterator[Token]:
        for token in self._tokens:
            if token.type == kind:
                return
            yield token

    def _heading(self, token: Token) -> Iterator[str]:
        (inline,) = self._until("heading_close")
        self._fresh = True
        if token.tag == "h1":
            if (title := TITLE.match(inline.content)) is None:
                raise ValueError(f"no title of a manual page: {inline.content!r}")
            date, source, manual = self._foot
            yield f'.TH {title[1].upper()} {title[2]} "{date}" "{source}" "{manual}"'
        elif token.tag == "h2":
            self._section = inline.content.upper()
            yield f".SH {_quoted(self._section)}"
        else:
            yield f".SS {_quoted(_plain(inline))}"

    def _paragraph(self, _: Token) -> Iterator[str]:
        (inline,) = self._until("paragraph_close")
        if not self._fresh:
            yield ".PP"
        self._fresh = False
        text = _inline(inline.children or [])
        if self._section == "NAME":
            text = text.replace(" - ", r" \- ")
        yield from _filled(text)

    def _code(self, token: Token) -> Iterator[str]:
        if not self._fresh:
            yield ".PP"
        yield from (".RS 4", ".EX", *map(_line, token.content.splitlines()), ".EE", ".RE")
        self._fresh = False

    # -- lists

    def _list(self, token: Token) -> Iterator[str]:
        ordered = token.type == "ordered_list_open"
        items = self._until(token.type.replace("open", "close"))
        for number, _ in enumerate(items, 1):  # an item takes all tokens up to its end
            mark = f".IP {number}. 4" if ordered else r".IP \(bu 2"
            yield from self._item(mark)
        self._fresh = False

    def _item(self, mark: str) -> Iterator[str]:
        first = True
        for token in self._until("list_item_close"):
            if token.type == "inline":
                children = token.children or []
                breaks = [at for at, child in enumerate(children) if child.type == "hardbreak"]
                if first and breaks:
                    yield from (".TP", *_filled(_inline(children[: breaks[0]])))
                    children = children[breaks[0] + 1 :]
                else:
                    yield mark if first else ".IP"
                yield from _filled(_inline(children))
                first = False
            elif token.type == "fence":
                yield from (".RS 4", ".EX", *map(_line, token.content.splitlines()), ".EE", ".RE")
            elif token.type not in ("paragraph_open", "paragraph_close"):
                raise ValueError(f"{token.type} in a list item")

    # -- tables

    def _table(self, _: Token) -> Iterator[str]:
        rows: list[list[str]] = []
        for token in self._until("table_close"):
            if token.type == "tr_open":
                rows.append([])
            elif token.type == "inline":
                rows[-1].append(_inline(token.children or []))
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        folded = [width > CELL_MAX for width in widths]
        if not self._fresh:
            yield ".PP"
        yield from (".TS", " ".join("lx" if fold else "l" for fold in folded) + ".")
        head, *body = rows
        yield "\t".join(f"\\fI{cell}\\fR" if cell else "" for cell in head)
        for row in body:
            yield "\t".join(
                f"T{{\n.ad l\n.nh\n{_safe(cell)}\nT}}" if fold else _safe(cell)
                for cell, fold in zip(row, folded, strict=True)
            )
        yield ".TE"
        self._fresh = False


# -- text


def _inline(tokens: Sequence[Token]) -> str:
    """Return text with fonts; a newline where the source has one."""
    parts: list[str] = []
    address = ""
    for token in tokens:
        if token.type == "link_open":
            address = str(token.attrGet("href"))
        elif token.type == "link_close":
            # A page on the web is named; a file of the documentation is not beside this page.
            parts.append(f" <{_escaped(address)}>" if "://" in address else "")
        elif token.type == "text":
            if "**" in token.content:  # `**a=***B*` is not bold, for example
                raise ValueError(f"asterisks in a text, which mark nothing: {token.content}")
            parts.append(_escaped(token.content, hyphens=_is_bold(parts)))
        elif token.type == "code_inline":
            parts.append(rf"\fB{_escaped(token.content, hyphens=True)}\fR")
        elif token.type in MARKS:
            parts.append(MARKS[token.type])
        else:
            raise ValueError(f"{token.type} in a text")
    return "".join(parts)


def _is_bold(parts: Sequence[str]) -> bool:
    return bool(parts) and parts[-1] == BOLD


def _plain(inline: Token) -> str:
    return "".join(token.content for token in inline.children or [])


def _escaped(text: str, *, hyphens: bool = False) -> str:
    """Return text for roff. A hyphen that people copy is a minus sign there."""
    text = text.replace("\\", r"\e")
    if not text.isascii():
        raise ValueError(f"not ASCII: {text!r}")
    text = text.replace("~", r"\(ti").replace("^", r"\(ha").replace("`", r"\(ga")
    return text.replace("-", r"\-") if hyphens else text.replace("--", r"\-\-")


def _safe(line: str) -> str:
    # A control character begins a line that is a request.
    return rf"\&{line}" if line.startswith((".", "'")) else line


def _line(text: str) -> str:
    return _safe(_escaped(text, hyphens=True))


def _filled(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        if line.strip():
            yield _safe(line.strip())


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"' if " " in text else _escaped(text)
