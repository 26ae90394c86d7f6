"""Similar tensors are found by their content."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from modelfs.errors import CorruptIndex
from modelfs.jobs.check.fsck import check
from modelfs.jobs.gc import collector as collector_module
from modelfs.jobs.optimize.similarity import CANDIDATES_MAX, ListedTensor, Relation, SimilarityIndex
from modelfs.store.index.decoders import decode_sketch
from modelfs.store.index.tables import ROOT, Table, sketch_key
from modelfs.store.index.tensor_records import SketchKind
from modelfs.store.store import Store
from tests.support.paths import MODELS
from tests.support.related_tensors import (
    Array,
    Model,
    bf16,
    embedded,
    quantised,
    safetensors_of,
    stored_model,
    tuned,
    weights,
)
from tests.support.run_jobs import collect, drain, ingest_all
from tests.support.sample_store import QUERY, WORDS, Sample

BASE: Final = weights(200, 300)


Pair = tuple[Array, Array]


def _pairs(base: NDArray[np.float32], other: NDArray[np.float32]) -> list[tuple[Pair, list[str]]]:
    """Return pairs of a stored and a new tensor, and the relations of the new one."""
    half, longer = base.astype(np.float16), np.vstack([tuned(base), weights(9, 300)])
    stacked = base.reshape(5, 40, 300)
    return [
        ((base, tuned(base)), ["NEAR"]),
        ((tuned(base), base), ["NEAR"]),
        ((bf16(base), bf16(tuned(base))), ["NEAR"]),
        ((base, longer), ["NEAR"]),
        ((longer, base), ["NEAR"]),
        ((base, base.reshape(300, 200)), ["EQUAL", "NEAR"]),
        ((base, bf16(base)), ["CAST"]),
        ((base, half), ["CAST"]),
        ((bf16(base), base), ["WIDER"]),
        ((half, base), ["WIDER"]),
        ((half, half.astype(np.float32)), ["CAST"]),
        ((base, quantised(base)), ["CAST"]),
        ((base, embedded(base)), ["CAST"]),
        ((quantised(base), base), ["WIDER"]),
        ((embedded(base), base), ["WIDER"]),
        ((base, quantised(other)), []),
        ((embedded(other), base), []),
        ((base, base.T), ["TRANSPOSE"]),
        ((stacked, stacked.swapaxes(1, 2)), ["TRANSPOSE"]),
        ((base, base.reshape(-1)[:-9]), ["NEAR"]),
        ((base, base * np.float32(1000)), []),  # the same bands, but a delta saves nothing
        ((base, other), []),
        ((base, other.T), []),
        ((bf16(base), bf16(other)), []),
        ((np.zeros_like(base), np.zeros_like(longer)), []),
    ]


def test_relations(opened: Store) -> None:
    """The relations of two tensors are found, and no others."""
    for number in range(len(_pairs(BASE, BASE))):
        others = weights(200, 300, seed=2 * number), weights(200, 300, seed=2 * number + 1)
        (stored, coming), relations = _pairs(*others)[number]
        base = stored_model(opened, f"base{number}", w=stored)
        base.put("w")
        related = stored_model(opened, f"model{number}", w=coming).related("w")
        assert related == [(relation, base.inode, "w") for relation in relations], number


@pytest.mark.parametrize("whole_first", [True, False])
def test_parts_and_wholes(opened: Store, *, whole_first: bool) -> None:
    """Parts of a concatenated matrix are found in the whole, and the whole by its parts."""
    parts = [weights(300, 200, seed=seed) for seed in range(3)]
    whole = stored_model(opened, "whole", qkv=np.vstack(parts))
    each = stored_model(opened, "each", q=parts[0], k=parts[1], v=parts[2])
    size = parts[0].nbytes
    if whole_first:
        whole.put("qkv")
        for name, shift in (("q", 0), ("k", size), ("v", 2 * size)):
            (candidate,) = each.candidates(name)
            assert (candidate.relation, candidate.shift) == (Relation.ALIGNED, shift)
    else:
        each.put("q", "k", "v")
        shifts = {each.row.name: each.shift for each in whole.candidates("qkv")}
        assert shifts == {"q": 0, "k": -size, "v": -2 * size}


def test_an_alignment_has_the_offsets_of_rows(opened: Store) -> None:
    """At each spot of an alignment, a row begins that the source has, too."""
    values = weights(500, 100)
    stored_model(opened, "base", w=values).put("w")
    grown = np.vstack([values[:200], weights(7, 100, seed=1), values[200:]])
    candidates = stored_model(opened, "grown", w=grown).candidates("w")
    aligned = [each for each in candidates if each.relation is Relation.ALIGNED]
    assert {each.shift for each in aligned} <= {0, -7 * 400}
    content, mine = values.tobytes(), grown.tobytes()
    for each in aligned:
        assert each.spots == tuple(sorted(each.spots))
        for at in each.spots:
            assert mine[at : at + 400] == content[at + each.shift :][:400]
    assert -7 * 400 in {each.shift for each in aligned}


def test_the_nearest_comes_first(opened: Store) -> None:
    """Near tensors are sorted by the expected bits of a delta to them."""
    far, near = tuned(tuned(BASE, 1), 2), tuned(BASE, 3)
    for number, values in enumerate((far, near, BASE)):
        stored_model(opened, f"m{number}", w=values).put("w")
    candidates = stored_model(opened, "new", w=near + np.float32(1e-7)).candidates("w")
    assert candidates[0].row == candidates[1].row
    bits = [each.bits for each in candidates]
    assert bits == sorted(bits)
    assert opened.namespace.lookup(ROOT, b"m1") == candidates[0].inode


def test_a_tensor_is_not_its_own_relative(opened: Store) -> None:
    """A listed tensor that is looked up again is not among its own candidates."""
    model = stored_model(opened, "model", w=BASE, tied=BASE)
    model.put("w", "tied")
    assert {name for _, _, name in model.related("w")} == {"tied"}


REAL: Final[dict[str, tuple[str, str]]] = {  # relations of words and query to the base's
    "base-bf16.safetensors": ("CAST", "CAST"),
    "base-f16.safetensors": ("CAST", "CAST"),
    "finetune.safetensors": ("NEAR", "NEAR"),
    "lora-merged.safetensors": ("EQUAL", "NEAR"),
    "vocab-extended.safetensors": ("NEAR", "EQUAL"),
    "base.onnx": ("EQUAL", "TRANSPOSE"),
}


def test_real_relatives_are_found(opened: Store) -> None:
    """Casts, fine-tunes, a longer vocabulary and an export of a real model find the original."""
    base = Model(opened, "base", (MODELS / "base.safetensors").read_bytes())
    base.put(WORDS, QUERY)
    for name, relations in REAL.items():
        model = Model(opened, name, (MODELS / name).read_bytes())
        query = QUERY if model.has(QUERY) else "onnx::MatMul_1"
        for tensor, original, relation in zip(
            (WORDS, query), (WORDS, QUERY), relations, strict=True
        ):
            assert model.related(tensor)[0] == (relation, base.inode, original), (name, tensor)


# -- many tensors of one key


def test_of_many_the_oldest_and_the_newest_are_candidates(opened: Store) -> None:
    """Among many fine-tunes, the first and the last one are candidates."""
    tensors = {f"w{number:02}": tuned(BASE[:50], number) for number in range(20)}
    many = stored_model(opened, "many", **tensors)
    many.put(*tensors)
    opened.commit()
    model = stored_model(opened, "new", w=tuned(BASE[:50], 99))
    starts = {listed.start for key in model.sketch("w").bands for listed in seen(opened, key)}
    assert {many.row("w00").start, many.row("w19").start} <= starts
    assert {relation for relation, _, _ in model.related("w")} == {"NEAR"}
    assert len(model.related("w")) <= CANDIDATES_MAX


def seen(store: Store, band: int) -> list[ListedTensor]:
    index = SimilarityIndex(store)
    listed = [tensor for tensor, _ in index.listed_under(SketchKind.BAND, band)]
    assert len(listed) == len(set(listed))
    return listed


def test_each_listed_tensor_is_returned_once(opened: Store) -> None:
    """All tensors of a key are returned if they are few, else the oldest 4 and the newest 2."""
    for count in range(1, 10):
        with opened.index.change():
            for hashed in (count, count + 1):
                key = sketch_key(SketchKind.BAND, hashed, count, 0, 5)
                opened.index.put(Table.SKETCHES, key, b"")
            for inode in range(1, count + 1):
                key = sketch_key(SketchKind.BAND, count << 40, inode, 0, 5)
                opened.index.put(Table.SKETCHES, key, b"")
        everything = list(range(1, count + 1))
        inodes = [listed.inode for listed in seen(opened, count << 40)]
        assert sorted(inodes) == sorted({*everything[:4], *everything[-2:]})


def test_the_cost_does_not_grow(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up reads as many rows of the index with 60 fine-tunes stored as with 20."""
    index, tensors = opened.index, {f"w{number}": tuned(BASE[:50], number) for number in range(61)}
    model = stored_model(opened, "many", **tensors)
    sketches = {name: model.sketch(name) for name in tensors}
    reads: list[int] = []
    committed = index.rows
    monkeypatch.setattr(committed, "page", _counted(committed.page, reads))
    monkeypatch.setattr(committed, "floor_key", _counted(committed.floor_key, reads))
    counts: list[int] = []
    for name, sketch in sketches.items():
        reads.clear()
        candidates = model.similarity.candidates(model.inode, model.row(name), sketch)
        assert bool(candidates) == bool(counts)
        counts.append(len(reads))
        with index.change():
            model.similarity.put(model.inode, model.row(name), sketch)
    assert max(counts[40:]) <= max(counts[:21]) * 1.2


def _counted(call: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def counting(*args: object) -> Any:
        calls.append(1)
        return call(*args)

    return counting


# -- stale rows


def rows(store: Store) -> int:
    return len(list(store.index.pages(Table.SKETCHES)))


def test_removed_tensors_are_not_found_and_dropped(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors of a removed file are no candidates, and gc drops their rows and no others."""
    monkeypatch.setattr(collector_module, "SLICE", 3)
    base, other = stored_model(opened, "base", w=BASE), stored_model(opened, "other", w=tuned(BASE))
    other.put("w")
    kept = rows(opened)
    base.put("w")
    opened.namespace.unlink(ROOT, b"base")
    drain(opened.orphans.remove(base.inode))
    model = stored_model(opened, "model", w=tuned(BASE, 2))
    assert {inode for _, inode, _ in model.related("w")} == {other.inode}
    collect(opened)
    assert rows(opened) == kept
    assert {inode for _, inode, _ in model.related("w")} == {other.inode}


def test_changed_tensors_are_listed_again(opened: Store) -> None:
    """A tensor that was overwritten is found by its new content once it is listed again."""
    model = stored_model(opened, "base", w=BASE)
    model.put("w")
    before = rows(opened)
    opened.writes.write(model.inode, 0, safetensors_of({"w": weights(200, 300, seed=7)}))
    ingest_all(opened)
    model.put("w")
    assert rows(opened) > before
    assert stored_model(opened, "old", w=tuned(BASE)).candidates("w") == []
    assert stored_model(opened, "new", w=tuned(weights(200, 300, seed=7))).related("w") == [
        ("NEAR", model.inode, "w")
    ]
    collect(opened)
    assert rows(opened) == before


def test_a_tensor_of_another_shape_is_another(opened: Store) -> None:
    """A tensor that now has another shape or dtype is not found by its old rows."""
    model = stored_model(opened, "base", w=BASE)
    model.put("w")
    opened.writes.write(model.inode, 0, safetensors_of({"w": BASE[:100]}))
    ingest_all(opened)
    assert stored_model(opened, "new", w=tuned(BASE)).candidates("w") == []
    collect(opened)
    assert rows(opened) == 0


def test_listing_twice_changes_nothing(opened: Store) -> None:
    """Listing an unchanged tensor again changes no row."""
    model = stored_model(opened, "base", w=BASE)
    model.put("w")
    before = list(opened.index.pages(Table.SKETCHES))
    model.put("w")
    assert list(opened.index.pages(Table.SKETCHES)) == before


def test_a_tensor_has_few_rows(opened: Store) -> None:
    """A tensor has at most 40 rows in the index, and a small one has fewer."""
    for shape, most in (((10, 100), 3), ((64, 250), 14), ((500, 500), 20), ((1500, 1500), 40)):
        before = rows(opened)
        stored_model(opened, f"{shape}", w=weights(*shape)).put("w")
        assert 1 <= rows(opened) - before <= most


# -- rows that modelfs did not write

GOOD_KEY: Final = sketch_key(SketchKind.EXACT, 1, 1, 0, 0)


JUNK: Final = [
    (GOOD_KEY[:-1], b""),
    (GOOD_KEY + b"\0", b""),
    (GOOD_KEY, b"x"),
    (sketch_key(0, 1, 1, 0, 0), b""),
    (sketch_key(5, 1, 1, 0, 0), b""),
    (sketch_key(SketchKind.BAND, 1, 0, 0, 0), b""),
    (sketch_key(SketchKind.ROW, 1, 1, 0, 0), bytes(7)),
    (sketch_key(SketchKind.SAMPLES, 0, 1, 0, 0), b""),
    (sketch_key(SketchKind.SAMPLES, 0, 2, 0, 0), bytes(100)),
    (sketch_key(SketchKind.SAMPLES, 0, 3, 0, 0), b"\x01" + bytes(5000)),
    (sketch_key(SketchKind.SAMPLES, 1, 1, 0, 0), b"\x01" + bytes(16)),
    (sketch_key(SketchKind.SAMPLES, 0, 1, 0, 1), b"\x01" + bytes(16)),
]


def test_junk_does_not_decode(sample: Sample) -> None:
    """Each row of a wrong length or kind is a finding of fsck, and there are no others."""
    for key, value in JUNK:
        with pytest.raises(CorruptIndex):
            decode_sketch(key, value)
        sample.put(Table.SKETCHES, key, value)
    assert [each.invariant for each in sample.findings(data=False)] == ["row"] * len(JUNK)


def test_rows_that_do_not_decode_are_passed_over(opened: Store) -> None:
    """A row with a value of a wrong length is no candidate and no error, until gc drops it."""
    parts = [weights(300, 200, seed=seed) for seed in range(2)]
    stored_model(opened, "whole", w=np.vstack(parts)).put("w")
    model = stored_model(opened, "model", w=parts[1])
    assert [each.relation for each in model.candidates("w")] == [Relation.ALIGNED]
    with opened.index.change():
        for key, _ in list(opened.index.pages(Table.SKETCHES)):
            if key[0] == SketchKind.ROW:
                opened.index.put(Table.SKETCHES, key, bytes(7))
    assert model.candidates("w") == []
    collect(opened)
    assert check(opened) == []


def test_wrong_rows_do_no_harm(opened: Store) -> None:
    """Rows that decode but are wrong give candidates at worst, and no errors."""
    base = stored_model(opened, "base", w=BASE)
    base.put("w")
    model = stored_model(opened, "model", w=tuned(BASE), other=weights(300, 300))
    sketch = model.sketch("w")
    with opened.index.change():
        for key, value in list(opened.index.pages(Table.SKETCHES)):
            if key[0] == SketchKind.SAMPLES:
                opened.index.put(Table.SKETCHES, key, value[:50])
        for each in sketch.bands:
            for inode in (base.inode, model.inode, 999):
                opened.index.put(
                    Table.SKETCHES, sketch_key(SketchKind.BAND, each, inode, 5, 5), b""
                )
    assert model.candidates("w") == []
    assert check(opened) == []
    collect(opened)
    assert rows(opened) == 0
