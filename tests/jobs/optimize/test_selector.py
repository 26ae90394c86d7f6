"""Encoders are selected by the relations of the candidates, and among deltas by their size."""

import errno
from collections.abc import Sequence
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from modelfs.codecs.base import CodecId
from modelfs.jobs.optimize.batch import Target
from modelfs.jobs.optimize.encoders import (
    CastEncoder,
    DeltaEncoder,
    Encoder,
    GatherEncoder,
    QuantiseEncoder,
    TransposeEncoder,
)
from modelfs.jobs.optimize.selector import BASES_MAX, EncoderSelector
from modelfs.jobs.optimize.similarity import Candidate, Relation
from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.files.tensor_view import TensorView
from modelfs.store.index.tables import ChunkId
from modelfs.store.store import Store
from tests.support.derived_chunks import chunk_at, spoil
from tests.support.related_tensors import Model, stored_model, weights
from tests.support.run_jobs import optimize
from tests.support.served_store import Counting, Failing
from tests.support.stores import Box, overwrite, pack_path

SHAPE: Final = (128, 128)  # 64 KiB, one chunk
BASE: Final = weights(*SHAPE)


def moved(by: float, seed: int = 9) -> NDArray[np.float32]:
    """Return the base's weights, moved by a part of their spread."""
    return (BASE + by * weights(*SHAPE, seed=seed)).astype(np.float32)


def selector_of(store: Store, depth: int = 1) -> EncoderSelector:
    return EncoderSelector(store.maps, store.chunks, store.chunk_reader, depth)


def view_of(model: Model) -> TensorView:
    """Return a view of the only tensor of a model."""
    return TensorView(model.store.maps, model.store.chunk_reader, model.inode, model.row("w"))


def chunk_of(model: Model) -> ChunkId:
    return chunk_at(model.store, model.inode, model.row("w").start)


def target_of(model: Model) -> Target:
    chunk = chunk_of(model)
    return Target(chunk, model.store.chunks.record(chunk), 0)


def candidate(model: Model, relation: Relation, shift: int = 0) -> Candidate:
    return Candidate(relation, model.inode, model.row("w"), 0, shift)


def near(*models: Model) -> list[Candidate]:
    return [candidate(model, Relation.NEAR) for model in models]


def content(model: Model) -> bytes:
    return model.store.chunk_reader.read_current(chunk_of(model))


# -- exact encoders


@pytest.mark.parametrize(
    ("relation", "dtype", "kind"),
    [
        (Relation.CAST, np.float16, CastEncoder),
        (Relation.CAST, np.int8, QuantiseEncoder),
        (Relation.TRANSPOSE, np.float32, TransposeEncoder),
        (Relation.EQUAL, np.float32, GatherEncoder),
        (Relation.ALIGNED, np.float32, GatherEncoder),
    ],
)
def test_each_exact_relation_has_its_encoder(
    wide: Box, relation: Relation, dtype: type[np.generic], kind: type[Encoder]
) -> None:
    """The encoder is that of the relation, and for conversions of the tensor's own dtype."""
    base = stored_model(wide.store, "base", w=BASE)
    model = stored_model(wide.store, "model", w=(100 * BASE).astype(dtype))
    exact = selector_of(wide.store).exact(view_of(model), [candidate(base, relation)])
    assert [type(each.encoder) for each in exact] == [kind]
    assert [each.candidate.relation for each in exact] == [relation]


def test_near_and_wider_tensors_have_no_exact_encoder(wide: Box) -> None:
    """A delta is no exact form, and a wider tensor is no source."""
    base, model = (stored_model(wide.store, name, w=BASE + n) for n, name in enumerate("ab"))
    others = [candidate(base, relation) for relation in (Relation.NEAR, Relation.WIDER)]
    assert selector_of(wide.store).exact(view_of(model), others) == []


def test_one_encoder_gathers_from_all_aligned_tensors(wide: Box) -> None:
    """The parts of a fused tensor lie in several others: one encoder has them all, and is last."""
    upper = stored_model(wide.store, "upper", w=BASE[:64])
    lower = stored_model(wide.store, "lower", w=BASE[64:])
    cast = stored_model(wide.store, "cast", w=BASE.astype(np.float16))
    fused = stored_model(wide.store, "fused", w=BASE)
    candidates = [
        candidate(upper, Relation.ALIGNED),
        candidate(lower, Relation.ALIGNED, shift=-len(BASE[:64].tobytes())),
        candidate(cast, Relation.CAST),
    ]
    exact = selector_of(wide.store).exact(view_of(fused), candidates)
    assert [type(each.encoder) for each in exact] == [CastEncoder, GatherEncoder]
    assert exact[1].candidate == candidates[0]
    form = exact[1].encode(BASE.tobytes(), 0)
    assert form is not None
    assert form.codec is CodecId.GATHER
    assert set(form.sources) == {chunk_of(upper), chunk_of(lower)}


# -- deltas


def selected(
    store: Store, model: Model, candidates: Sequence[Candidate], depth: int = 1
) -> Candidate | None:
    """Return the candidate whose delta is selected."""
    encoder = selector_of(store, depth).delta(view_of(model), [target_of(model)], candidates)
    assert encoder is None or isinstance(encoder.encoder, DeltaEncoder)
    return None if encoder is None else encoder.candidate


def test_the_nearest_base_is_selected(wide: Box) -> None:
    """Of several near tensors, that with the smallest delta is the base, wherever it is listed."""
    model = stored_model(wide.store, "model", w=BASE)
    others = near(*(stored_model(wide.store, f"{by}", w=moved(by)) for by in (0.1, 0.001, 0.01)))
    for turn in range(3):
        assert selected(wide.store, model, others[turn:] + others[:turn]) == others[1]


def test_only_near_tensors_are_bases(wide: Box) -> None:
    """Candidates of other relations are not tried, and without a near one there is no delta."""
    model = stored_model(wide.store, "model", w=BASE)
    other = stored_model(wide.store, "other", w=moved(0.01))
    others = [candidate(other, relation) for relation in Relation if relation is not Relation.NEAR]
    assert selected(wide.store, model, others) is None
    assert selected(wide.store, model, [*others, *near(other)]) == near(other)[0]


def test_a_single_base_is_not_measured(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one base, nothing is read to compare it with."""
    model = stored_model(wide.store, "model", w=BASE)
    others = near(stored_model(wide.store, "other", w=moved(0.01)))
    read = Counting(ChunkReader.read_current)
    monkeypatch.setattr(ChunkReader, "read_current", read)
    assert selected(wide.store, model, others) == others[0]
    assert read.calls == []


def test_few_bases_are_measured(wide: Box) -> None:
    """The first `BASES_MAX` bases are compared; a nearer one behind them is not seen."""
    model = stored_model(wide.store, "model", w=BASE)
    far = [stored_model(wide.store, f"{n}", w=moved(0.1, n)) for n in range(1, 1 + BASES_MAX)]
    nearest = stored_model(wide.store, "nearest", w=moved(0.001))
    assert selected(wide.store, model, near(*far[1:], nearest)) == near(nearest)[0]
    assert selected(wide.store, model, near(*far, nearest)) in near(*far)


def test_deltas_to_one_base_are_one_base(wide: Box) -> None:
    """At the depth of 1, other fine-tunes stand for their base, and are not compared one by one."""
    base = stored_model(wide.store, "base", w=BASE)
    optimize(wide.store)
    tunes = [stored_model(wide.store, f"{n}", w=moved(0.001, n)) for n in range(1, 1 + BASES_MAX)]
    optimize(wide.store)
    assert all(wide.store.chunks.record(chunk_of(each)).form == "delta" for each in tunes)
    far = stored_model(wide.store, "far", w=moved(0.1, 100))
    model = stored_model(wide.store, "model", w=moved(0.1, 100) + np.float32(1e-6))
    others = near(*tunes, base, far)
    assert selected(wide.store, model, others) == near(far)[0]
    # With more depth each of them is a base of its own, and `far` is the fifth.
    assert selected(wide.store, model, others, depth=2) in near(*tunes)


@pytest.mark.parametrize(("depth", "on_base"), [(1, True), (2, False)])
def test_the_base_of_a_delta_is_used_beyond_the_depth(wide: Box, depth: int, on_base: bool) -> None:
    """A delta on a delta would be too deep: the form has the base of the first as its source."""
    base = stored_model(wide.store, "base", w=BASE)
    optimize(wide.store)
    tuned = stored_model(wide.store, "tuned", w=moved(0.001))
    optimize(wide.store)
    model = stored_model(wide.store, "model", w=moved(0.0011))
    selector = selector_of(wide.store, depth)
    encoder = selector.delta(view_of(model), [target_of(model)], near(tuned))
    assert encoder is not None
    form = encoder.encode(content(model), 0)
    assert form is not None
    assert form.sources == (chunk_of(base if on_base else tuned),)


# -- damage


def test_a_damaged_base_is_not_selected(wide: Box) -> None:
    """A base that cannot be read counts as the largest delta."""
    model = stored_model(wide.store, "model", w=BASE)
    nearest, other = (stored_model(wide.store, f"{by}", w=moved(by)) for by in (0.001, 0.01))
    record = wide.store.chunks.record(chunk_of(nearest))
    good = wide.store.stored_bytes.read(chunk_of(nearest), record)
    spoil(wide.store, chunk_of(nearest))
    assert selected(wide.store, model, near(nearest, other)) == near(other)[0]
    overwrite(pack_path(wide.store.packs, record.pack), record.offset, good)


def test_a_source_that_cannot_be_read_gives_no_form(
    wide: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector of the source is no error of the tensor; other errors of the disk are raised."""
    model = stored_model(wide.store, "model", w=BASE)
    others = near(stored_model(wide.store, "other", w=moved(0.01)))
    encoder = selector_of(wide.store).delta(view_of(model), [target_of(model)], others)
    assert encoder is not None
    whole = content(model)
    assert encoder.encode(whole, 0) is not None
    wide.store.chunk_reader.forget_all()
    for number, raised in ((errno.EIO, False), (errno.EMFILE, True)):
        failing = Failing(wide.store.packs.read, OSError(number, "broken"), *range(1, 9))
        with monkeypatch.context() as patch:
            patch.setattr(wide.store.packs, "read", failing)
            if raised:
                with pytest.raises(OSError, match="broken"):
                    encoder.encode(whole, 0)
            else:
                assert encoder.encode(whole, 0) is None
        assert failing.calls > 0
