import hashlib
from pathlib import Path

from tools.corpus import manifest


def test_every_file_is_described(tmp_path: Path) -> None:
    """A manifest has each file once, those made in their order, and reads back as written."""
    (tmp_path / "b").mkdir()
    for name in ("b/model", "a", "b/config.json"):
        (tmp_path / name).write_bytes(name.encode())
    made = [("b/model", "base", "as published"), ("a", "cast", "from it")]
    entries = manifest.write(tmp_path, made, {"made in": "1 s"})
    assert entries == manifest.read(tmp_path)
    assert [(entry.path, entry.kind) for entry in entries] == [
        ("b/model", "base"),
        ("a", "cast"),
        ("b/config.json", manifest.COMPANION),
    ]
    assert entries[0].size == 7
    assert entries[0].sha256 == hashlib.sha256(b"b/model").hexdigest()


def test_readme_tells_the_same(tmp_path: Path) -> None:
    """Beside the manifest lies a README with each file's digest, and the notes."""
    (tmp_path / "a").write_bytes(bytes(1234))
    (entry,) = manifest.write(tmp_path, [("a", "base", "as published")], {"made in": "1 s"})
    readme = (tmp_path / manifest.README).read_text()
    assert "1 files, 1,234 bytes" in readme
    assert "- made in: 1 s" in readme
    assert f"| `a` | base | 1,234 | as published | `{entry.sha256}` |" in readme


def test_writing_again_describes_the_same(tmp_path: Path) -> None:
    """The manifest and README have no entries of their own."""
    (tmp_path / "a").write_bytes(b"a")
    first = manifest.write(tmp_path, [], {})
    assert manifest.write(tmp_path, [], {}) == first
