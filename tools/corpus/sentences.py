"""Sentence pairs to train on, from text that every machine has: docstrings, licences, READMEs.

Sentences that follow each other in one paragraph have one subject; those of different pairs do not.
That is a weak similarity signal, and a real one (Logeswaran and Lee, arXiv:1803.02893).
"""

import ast
import itertools
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

Pair = tuple[str, str]

# A full stop before a capital. It also splits after abbreviations, which does no harm here.
_END_OF_SENTENCE: Final = re.compile(r"(?<=[.!?:])\s+(?=[A-Z`\"'(])")
_PARAGRAPH: Final = re.compile(r"\n\s*\n")
_WORD: Final = re.compile(r"[A-Za-z]{2,}")
_LEFT_OUT: Final = frozenset({"site-packages", "test", "tests"})
MIN_WORDS: Final = 4
MAX_CHARACTERS: Final = 400


def pairs_of(texts: Iterable[str], seed: int) -> list[Pair]:
    """Return all pairs of adjacent sentences, each once, in an order that `seed` decides."""
    pairs = sorted({pair for text in texts for pair in adjacent(text)})
    random.Random(seed).shuffle(pairs)
    return pairs


def adjacent(text: str) -> Iterator[Pair]:
    """Yield the sentences of `text` that follow each other in one paragraph, as pairs."""
    for paragraph in _PARAGRAPH.split(text):
        sentences = [" ".join(part.split()) for part in _END_OF_SENTENCE.split(paragraph)]
        for first, second in itertools.pairwise(sentences):
            if first != second and is_prose(first) and is_prose(second):
                yield first, second


def is_prose(sentence: str) -> bool:
    return len(sentence) <= MAX_CHARACTERS and len(_WORD.findall(sentence)) >= MIN_WORDS


def docstrings(folder: Path) -> Iterator[str]:
    """Yield the docstrings of the Python files below `folder`, tests and packages left out."""
    for path in sorted(folder.rglob("*.py")):
        if not _LEFT_OUT.intersection(path.relative_to(folder).parts):
            yield from docstrings_in(path.read_text(encoding="utf-8", errors="replace"))


def docstrings_in(source: str) -> Iterator[str]:
    """Yield the docstrings of one file; of one that does not parse, none."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def documents(folder: Path) -> Iterator[str]:
    """Yield the licences and the descriptions of the packages that are installed in `folder`."""
    for info in sorted(folder.glob("*.dist-info")):
        for path in sorted(info.rglob("*")):
            wanted = path.name == "METADATA" or "licen" in path.name.lower()
            if wanted and path.is_file():
                yield path.read_text(encoding="utf-8", errors="replace")
