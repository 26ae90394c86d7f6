"""Checking a store while another process writes to it."""

from pathlib import Path

import pytest

from modelfs.jobs.check.fsck import check
from modelfs.jobs.check.impact import KnownLoss, known_loss
from modelfs.jobs.check.view import CheckView
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.stores import checked, content_of, noise, run_apart, stored_file

COLLECT = """
import sys
from pathlib import Path
from modelfs.store.store import Store
from tests.support.run_jobs import collect, ingest_all
with Store(Path(sys.argv[1])) as store:
    for name in (b"a", b"b", b"c"):
        store.namespace.unlink(1, name)
    collect(store)
    inode = store.namespace.lookup(1, b"d")
    store.writes.write(inode, 0, b"new")
    ingest_all(store)
"""
STAGE = """
import sys
from pathlib import Path
from modelfs.store.store import Store
with Store(Path(sys.argv[1])) as store:
    store.writes.write(store.namespace.lookup(1, b"d"), 0, b"staged")
"""


COMMITS = """
import sys
from pathlib import Path
from modelfs.store.store import Store
with Store(Path(sys.argv[1])) as store:
    node = store.namespace.lookup(1, b"d")
    used = 0
    for number in range(150):
        store.attributes.put(node, b"user.note", b"%d" % number)
        store.commit()
        if number == 20:
            used = store.index.file.used()
    print(store.index.file.used() - used)
"""


@pytest.fixture
def left(folder: Path) -> Path:
    """A store of four files that no process has open."""
    with checked(folder) as box:
        for number, name in enumerate((b"a", b"b", b"c", b"d")):
            stored_file(box.store, name, noise(20_000, number))
    return folder


def test_packs_deleted_meanwhile_are_not_missed(left: Path) -> None:
    """A pack that was rewritten since the check began, and is gone, is no finding."""
    with Store(left, read_only=True) as reader, reader.index.rows.copied():
        names = len(reader.dentries.listing(ROOT, 0, 9))
        run_apart(COLLECT, left)
        assert list(reader.packs.numbers()) != [1]
        assert check(reader, data=True) == []
        assert len(reader.dentries.listing(ROOT, 0, 9)) == names == 4


def test_staging_files_deleted_meanwhile_are_not_missed(left: Path) -> None:
    """A window that was ingested since the check began, and whose file is gone, is no finding."""
    run_apart(STAGE, left)
    with Store(left, read_only=True) as reader, reader.index.rows.copied():
        run_apart(COLLECT, left)
        assert check(reader, data=True) == []


def test_what_is_missing_all_along_is_found(left: Path) -> None:
    """A pack that is gone, though the newest commit has it, is a finding beside a writer too."""
    with Store(left, read_only=True) as reader, reader.index.rows.copied():
        run_apart(STAGE, left)
        (path,) = reader.packs.directory.path.iterdir()
        path.rename(path.with_suffix(".gone"))
        (finding,) = check(reader, data=True)
        assert finding.invariant == "pack-file"
        assert finding.files == (b"/a", b"/b", b"/c", b"/d")
        path.with_suffix(".gone").rename(path)
        assert content_of(reader, reader.namespace.lookup(ROOT, b"d")) == noise(20_000, 3)


def test_the_index_does_not_grow_under_a_check(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits during a check reuse the pages that they free, however long the check takes."""

    def commit_meanwhile(view: CheckView) -> KnownLoss:
        grown.append(int(run_apart(COMMITS, left)))
        return known_loss(view)

    monkeypatch.setattr("modelfs.jobs.check.fsck.known_loss", commit_meanwhile)
    grown: list[int] = []
    with Store(left, read_only=True) as reader:
        assert check(reader, data=True) == []
        with reader.index.rows.pinned():  # as every check did once
            assert check(reader, data=True) == []
    copied, pinned = grown
    assert copied < 100_000
    assert pinned > 1_000_000
