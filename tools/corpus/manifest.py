"""The files of a corpus, described for programs and for readers."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

MANIFEST: Final = "manifest.json"
README: Final = "README.md"
COMPANION: Final = "companion"  # the kind of files that are no model: configuration, tokenizer


@dataclass(frozen=True, slots=True)
class Entry:
    """One file. `path` is relative to the corpus; `kind` is its word in the figures."""

    path: str
    kind: str
    made: str
    size: int
    sha256: str


def write(corpus: Path, made: list[tuple[str, str, str]], notes: dict[str, str]) -> list[Entry]:
    """Describe all files below `corpus` in a manifest and a README.

    Args:
        corpus: the folder; a file without an entry in `made` is a companion file.
        made: path, kind and making of the files, in the order they were made.
        notes: more on how the corpus was made.
    """
    listed = {path for path, _, _ in made}
    rest = [path for path in files_below(corpus) if path not in listed]
    entries = [
        *(_entry(corpus, *made_file) for made_file in made),
        *(_entry(corpus, path, COMPANION, "copied, or written beside it") for path in rest),
    ]
    document = {"notes": notes, "files": [asdict(entry) for entry in entries]}
    (corpus / MANIFEST).write_text(json.dumps(document, indent=2) + "\n")
    (corpus / README).write_text(readme(entries, notes))
    return entries


def read(corpus: Path) -> list[Entry]:
    """Return the entries of a corpus, in the order its files were made."""
    document = json.loads((corpus / MANIFEST).read_text())
    return [Entry(**fields) for fields in document["files"]]


def files_below(corpus: Path) -> Iterator[str]:
    """Yield the paths of a corpus's files, relative to it, without its own description."""
    for path in sorted(corpus.rglob("*")):
        name = path.relative_to(corpus).as_posix()
        if path.is_file() and name not in {MANIFEST, README}:
            yield name


def readme(entries: list[Entry], notes: dict[str, str]) -> str:
    total = sum(entry.size for entry in entries)
    lines = [
        "# A real model family",
        "",
        f"{len(entries)} files, {total:,} bytes, made by `tools/run corpus` of modelfs.",
        "The base is `sentence-transformers/all-MiniLM-L6-v2` (Apache-2.0); the rest was trained",
        "from it.",
        "",
        *(f"- {name}: {text}" for name, text in notes.items()),
        "",
        "| file | kind | bytes | how it was made | SHA-256 |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| `{entry.path}` | {entry.kind} | {entry.size:,} | {entry.made} | `{entry.sha256}` |"
            for entry in entries
        ),
    ]
    return "\n".join(lines) + "\n"


def _entry(corpus: Path, path: str, kind: str, made: str) -> Entry:
    file = corpus / path
    return Entry(path, kind, made, file.stat().st_size, sha256(file))


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
