"""The examples of the page on Python run."""

import doctest
from pathlib import Path

import pytest

from modelfs.store.create import create_store
from modelfs.store.files.namespace import Owner
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.paths import CHECKOUT, MODELS
from tests.support.run_jobs import ingest_all, optimize
from tests.support.stores import FOLDER, new_file

PAGE = CHECKOUT / "docs" / "python.md"


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example prints what the page says."""
    monkeypatch.chdir(tmp_path)
    create_store(Path("models.store"))
    with Store(Path("models.store")) as store:
        folder = store.namespace.create(ROOT, b"minilm", FOLDER, Owner(0, 0)).inode
        for source in sorted(MODELS.iterdir()):
            new_file(store, source.name.encode(), source.read_bytes(), folder)
        ingest_all(store)
        optimize(store)
    flags = doctest.ELLIPSIS | doctest.REPORT_NDIFF
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, optionflags=flags)
    assert tried > 10
    assert not failed
