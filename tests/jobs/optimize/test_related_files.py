"""Tensors have counterparts in the files that other tensors of their file derive from."""

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


def accept(related_files: RelatedFiles, model: Model, base: Model, name: str = "large") -> None:
    related_files.accept(model.inode, Candidate(Relation.NEAR, base.inode, base.row(name), 1.0))


def counterparts(
    related_files: RelatedFiles, model: Model, name: str
) -> list[tuple[Relation, int, str]]:
    row = model.row(name)
    sketch = model.sketch(name) if row.size >= 1024 else None
    candidates = related_files.counterparts(model.inode, row, sketch)
    return [(each.relation, each.inode, each.row.name) for each in candidates]


def test_the_same_name_comes_first(opened: Store, related_files: RelatedFiles) -> None:
    """Once one tensor of a file derives from another file, the others have counterparts there."""
    base = stored_model(opened, "base", large=LARGE, small=SMALL, bias=BIAS)
    model = stored_model(opened, "model", bias=BIAS + 1, large=tuned(LARGE), small=tuned(SMALL))
    assert counterparts(related_files, model, "small") == []
    accept(related_files, model, base)
    for name in ("large", "small", "bias"):
        assert counterparts(related_files, model, name) == [(Relation.NEAR, base.inode, name)]


def test_renamed_tensors_are_found_by_position(opened: Store, related_files: RelatedFiles) -> None:
    """A renamed tensor has its counterpart at its position, if as many have its shape."""
    base = stored_model(opened, "base", large=LARGE, b1=SMALL, b2=SMALL + 1, odd=BIAS)
    model = stored_model(opened, "model", x=LARGE + 1, y=SMALL + 2, z=SMALL + 3, o=BIAS, p=BIAS + 1)
    accept(related_files, model, base)
    assert counterparts(related_files, model, "z") == [(Relation.NEAR, base.inode, "b2")]
    assert counterparts(related_files, model, "p") == []


def test_the_relation_follows_from_the_dtypes(opened: Store, related_files: RelatedFiles) -> None:
    """Counterparts of another dtype are casts if there is one; those of another shape, none."""
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
        assert counterparts(related_files, model, f"w{at}") == expected


def test_different_counterparts_are_left_out(opened: Store, related_files: RelatedFiles) -> None:
    """A counterpart is left out if a delta to it would save nothing by its samples."""
    base = stored_model(opened, "base", large=LARGE, other=weights(200, 300, seed=3))
    base.put("large", "other")
    model = stored_model(opened, "model", large=tuned(LARGE), other=weights(200, 300, seed=4))
    accept(related_files, model, base)
    assert counterparts(related_files, model, "other") == []
    (candidate,) = related_files.counterparts(
        model.inode, model.row("large"), model.sketch("large")
    )
    assert candidate.bits < 0.7 * model.sketch("large").bits


def test_the_last_source_comes_first(opened: Store, related_files: RelatedFiles) -> None:
    """Of several sources of a file, the latest few are remembered, and the last comes first."""
    bases = [stored_model(opened, f"base{each}", large=LARGE) for each in range(5)]
    model = stored_model(opened, "model", large=tuned(LARGE))
    for base in (*bases, bases[3]):
        accept(related_files, model, base)
    inodes = [inode for _, inode, _ in counterparts(related_files, model, "large")]
    assert inodes == [bases[each].inode for each in (3, 4, 2)]


def test_a_file_is_not_its_own_relative(opened: Store, related_files: RelatedFiles) -> None:
    """A tensor that derives from another of its own file gives no counterparts."""
    model = stored_model(opened, "model", large=LARGE, tied=LARGE)
    accept(related_files, model, model)
    assert counterparts(related_files, model, "tied") == []


def test_a_removed_source_is_left_out(opened: Store, related_files: RelatedFiles) -> None:
    """A source file that was removed has no counterparts."""
    base = stored_model(opened, "base", large=LARGE)
    model = stored_model(opened, "model", large=tuned(LARGE))
    accept(related_files, model, base)
    assert len(counterparts(related_files, model, "large")) == 1
    opened.namespace.unlink(ROOT, b"base")
    drain(opened.orphans.remove(base.inode))
    assert counterparts(related_files, model, "large") == []


def test_memory_is_bounded(
    opened: Store, related_files: RelatedFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and outlines above their bounds are forgotten, the least recently used first."""
    monkeypatch.setattr(related_files_module, "FILES_MAX", 2)
    monkeypatch.setattr(related_files_module, "OUTLINES_MAX", 1)
    monkeypatch.setattr(related_files_module, "TENSORS_MAX", 1)
    base = stored_model(opened, "base", large=LARGE, small=SMALL)
    models = [stored_model(opened, f"m{each}", large=LARGE, small=SMALL) for each in range(3)]
    for model in models:
        accept(related_files, model, base)
    assert [len(counterparts(related_files, model, "large")) for model in models] == [0, 1, 1]
    assert counterparts(related_files, models[2], "small") == []


def test_candidates_are_unique(opened: Store, related_files: RelatedFiles) -> None:
    """A counterpart that is found by its content, too, is one candidate, before all others."""
    bases = [
        stored_model(opened, f"base{number}", large=LARGE + np.float32(shift))
        for number, shift in enumerate((0, 1e-6))
    ]
    for base in bases:
        base.put("large")
    model = stored_model(opened, "model", large=tuned(LARGE))
    accept(related_files, model, bases[1])
    candidates = related_files.candidates(model.inode, model.row("large"), model.sketch("large"))
    assert [(each.relation, each.inode) for each in candidates] == [
        (Relation.NEAR, bases[1].inode),
        (Relation.NEAR, bases[0].inode),
    ]
