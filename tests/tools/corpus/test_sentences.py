from pathlib import Path

from tools.corpus.sentences import adjacent, docstrings, docstrings_in, documents, pairs_of

FIRST = "The first sentence has enough words."
SECOND = "So has the second of them."
THIRD = "And there is a third one."


def test_adjacent_sentences_are_pairs() -> None:
    """Sentences that follow each other are a pair, however their lines are broken."""
    text = f"{FIRST}\n  {SECOND} {THIRD}".replace("enough words", "enough\n\twords")
    assert list(adjacent(text)) == [(FIRST, SECOND), (SECOND, THIRD)]


def test_paragraphs_keep_apart() -> None:
    """The last sentence of a paragraph and the first of the next are no pair."""
    assert list(adjacent(f"{FIRST}\n \n{SECOND}")) == []


def test_only_prose_is_paired() -> None:
    """A text with few words, or without an end, is no sentence."""
    assert list(adjacent(f"{FIRST} It is. {SECOND}")) == []
    assert list(adjacent(f"{FIRST} {'And so on ' * 50}.")) == []


def test_pairs_come_once_in_an_order_of_the_seed() -> None:
    """The same texts and seed give the same pairs in the same order; another seed, another."""
    texts = [f"{FIRST} {SECOND} Number {number} has words, too." for number in range(20)]
    pairs = pairs_of(texts, seed=1)
    assert len(pairs) == len(set(pairs)) == 21
    assert pairs == pairs_of(reversed(texts), seed=1)
    assert pairs != pairs_of(texts, seed=2)


def test_docstrings_of_everything() -> None:
    """Modules, classes, functions and coroutines have docstrings; other strings are none."""
    source = '"""a"""\nclass C:\n    """b"""\n    def f(self):\n        """c"""\n        "d"\n'
    source += 'async def g():\n    """e"""\n'
    assert sorted(docstrings_in(source)) == ["a", "b", "c", "e"]


def test_source_that_does_not_parse() -> None:
    """A file that is not Python, or has null bytes, has no docstrings, and raises no error."""
    assert list(docstrings_in("def f(:")) == []
    assert list(docstrings_in('"""a"""\0')) == []


def test_folders_are_searched(tmp_path: Path) -> None:
    """Sources are found at any depth, without tests; licences and descriptions by their names."""
    for name in ("a.py", "inner/b.py", "test/c.py", "site-packages/d.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'"""{name}"""')
    assert list(docstrings(tmp_path)) == ["a.py", "inner/b.py"]
    info = tmp_path / "x-1.dist-info"
    (info / "licenses").mkdir(parents=True)
    for name in ("METADATA", "RECORD", "licenses/LICENSE.txt"):
        (info / name).write_text(name)
    assert list(documents(tmp_path)) == ["METADATA", "licenses/LICENSE.txt"]
