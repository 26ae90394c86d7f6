"""Inputs that fuzzing found: they reach code that others do not, or broke modelfs once."""

import tracemalloc
from pathlib import Path
from typing import Final

import pytest

from tests.fuzz.targets import TARGETS, Target
from tests.support.paths import FUZZ_CORPUS
from tests.support.run_jobs import ingest_all
from tests.support.stores import checked, content_of, new_file, new_store

GROWTH_MAX: Final = 64 << 20

every_target = pytest.mark.parametrize("name", TARGETS)


def kept(name: str) -> list[bytes]:
    """Return the inputs of a target that are tests."""
    return [path.read_bytes() for path in sorted((FUZZ_CORPUS / name).iterdir())]


def seeds(target: Target) -> list[bytes]:
    return list(target.seeds())


@every_target
def test_no_input_is_mistaken(name: str, tmp_path: Path) -> None:
    """No input makes its target raise, and none takes 64 MiB."""
    target = TARGETS[name]
    with target.prepare(tmp_path) as run:
        tracemalloc.start()
        try:
            for content in (*seeds(target), *kept(name)):
                run(content)
            assert tracemalloc.get_traced_memory()[1] < GROWTH_MAX
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("name", ["safetensors", "onnx", "torch"])
def test_files_read_back(name: str, tmp_path: Path) -> None:
    """A file of each input reads back byte for byte."""
    contents = [*seeds(TARGETS[name]), *kept(name)]
    with checked(new_store(tmp_path)) as box:
        inodes = [new_file(box.store, b"%d" % n, data) for n, data in enumerate(contents)]
        ingest_all(box.store)
        box.reopen()
        assert [content_of(box.store, each) for each in inodes] == contents


def test_there_is_a_corpus_for_each() -> None:
    """A folder is a target's, and no target is without one."""
    assert {path.name for path in FUZZ_CORPUS.iterdir()} == set(TARGETS)
