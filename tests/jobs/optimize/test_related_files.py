"""Tensors that are found where the others of their file were."""

import numpy as np
import pytest

from modelfs.jobs.optimize import related_files as related_files_module
from modelfs.jobs.optimize.related_files import RelatedFiles
from modelfs.jobs.optimize.similarity import Candidate, Relation, SimilarityIndex
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.related_tensors import Array, Model, bf16, stored_model, tuned, weights
from tests.support.run_jobs import drain

LARGE, SMALL = weights(200, 300), weights(300, seed=5)
BIAS = weights(50, seed=6)  # too small for a sketch


@pytest.fixture
def related_files(opened: Store) -> RelatedFiles:
    return RelatedFiles(SimilarityIndex(opened), TensorTable(opened.index))


def accept(related_files: RelatedFiles, mine: Model, theirs: Model, name: str = "large") -> None:
    related_files.accept(mine.inode, Candidate(Relation.NEAR, theirs.inode, theirs.row(name), 1.0))


def first(related_files: RelatedFiles, model: Model, name: str) -> list[tuple[Relation, int, str]]:
    row = model.row(name)
    sketch = model.sketch(name) if row.size >= 1024 else None
    candidates = related_files.first(model.inode, row, sketch)
    return [(each.relation, each.inode, each.row.name) for each in candidates]


def test_the_same_name_comes_first(opened: Store, related_files: RelatedFiles) -> None:
    """Once a file's tensor was made from another file, its others have their counterparts there."""
    base = stored_model(opened, "base", large=LARGE, small=SMALL, bias=BIAS)
    model = stored_model(opened, "model", bias=BIAS + 1, large=tuned(LARGE), small=tuned(SMALL))
    assert first(related_files, model, "small") == []
    accept(related_files, model, base)
    for name in ("large", "small", "bias"):
        assert first(related_files, model, name) == [(Relation.NEAR, base.inode, name)]


def test_without_the_name_the_order_tells(opened: Store, related_files: RelatedFiles) -> None:
    """Tensors that were renamed are found by their shape and place, if as many have that shape."""
    base = stored_model(opened, "base", large=LARGE, b1=SMALL, b2=SMALL + 1, odd=BIAS)
    model = stored_model(opened, "model", x=LARGE + 1, y=SMALL + 2, z=SMALL + 3, o=BIAS, p=BIAS + 1)
    accept(related_files, model, base)
    assert first(related_files, model, "z") == [(Relation.NEAR, base.inode, "b2")]
    assert first(related_files, model, "p") == []


def test_dtypes_say_what_is_tried(opened: Store, related_files: RelatedFiles) -> None:
    """Counterparts of another dtype are casts if one can be; those of another shape, none."""
    half = SMALL.astype(np.float16)
    cases: list[tuple[Array, Array, Relation | None]] = [
        (SMALL, bf16(SMALL), Relation.CAST),
        (bf16(SMALL), SMALL, Relation.WIDER),
        (half, half.astype(np.float32), Relation.CAST),
        (half, bf16(SMALL), None),
        (SMALL, weights(7, 300), None),
        (SMALL, weights(290, seed=1), Relation.NEAR),
    ]
    base = stored_model(opened, "base", **{f"w{at}": case[0] for at, case in enumerate(cases)})
    model = stored_model(opened, "model", **{f"w{at}": case[1] for at, case in enumerate(cases)})
    accept(related_files, model, base, "w0")
    for at, (_, _, relation) in enumerate(cases):
        expected = [] if relation is None else [(relation, base.inode, f"w{at}")]
        assert first(related_files, model, f"w{at}") == expected


def test_what_is_known_to_differ_is_not_tried(opened: Store, related_files: RelatedFiles) -> None:
    """A counterpart whose samples say that it is no relative is passed over."""
    base = stored_model(opened, "base", large=LARGE, other=weights(200, 300, seed=3))
    base.put("large", "other")
    model = stored_model(opened, "model", large=tuned(LARGE), other=weights(200, 300, seed=4))
    accept(related_files, model, base)
    assert first(related_files, model, "other") == []
    (candidate,) = related_files.first(model.inode, model.row("large"), model.sketch("large"))
    assert candidate.bits < 0.7 * model.sketch("large").bits


def test_the_last_source_comes_first(opened: Store, related_files: RelatedFiles) -> None:
    """Of a file with several sources the last is looked at first, and few are remembered."""
    bases = [stored_model(opened, f"base{each}", large=LARGE) for each in range(5)]
    model = stored_model(opened, "model", large=tuned(LARGE))
    for base in (*bases, bases[3]):
        accept(related_files, model, base)
    inodes = [inode for _, inode, _ in first(related_files, model, "large")]
    assert inodes == [bases[each].inode for each in (3, 4, 2)]


def test_a_file_is_not_its_own_relative(opened: Store, related_files: RelatedFiles) -> None:
    """A tensor made from another of its own file says nothing about the others."""
    model = stored_model(opened, "model", large=LARGE, tied=LARGE)
    accept(related_files, model, model)
    assert first(related_files, model, "tied") == []


def test_a_source_that_is_gone_is_passed_over(opened: Store, related_files: RelatedFiles) -> None:
    """What is remembered of a file that was removed meanwhile is in nobody's way."""
    base = stored_model(opened, "base", large=LARGE)
    model = stored_model(opened, "model", large=tuned(LARGE))
    accept(related_files, model, base)
    assert len(first(related_files, model, "large")) == 1
    opened.namespace.unlink(ROOT, b"base")
    drain(opened.orphans.remove(base.inode))
    assert first(related_files, model, "large") == []


def test_memory_is_bounded(
    opened: Store, related_files: RelatedFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more files than are remembered, those that were not used for longest are forgotten."""
    monkeypatch.setattr(related_files_module, "FILES_MAX", 2)
    monkeypatch.setattr(related_files_module, "OUTLINES_MAX", 1)
    monkeypatch.setattr(related_files_module, "TENSORS_MAX", 1)
    base = stored_model(opened, "base", large=LARGE, small=SMALL)
    models = [stored_model(opened, f"m{each}", large=LARGE, small=SMALL) for each in range(3)]
    for model in models:
        accept(related_files, model, base)
    assert [len(first(related_files, model, "large")) for model in models] == [0, 1, 1]
    assert first(related_files, models[2], "small") == []
