"""The optimizer keeps every byte in less space, through removals, errors and interruptions."""

import dataclasses
import errno
import os
import random
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from onnxruntime.quantization import quantize_dynamic  # type: ignore[import-untyped]

from modelfs.codecs import quantise
from modelfs.errors import StoreFull
from modelfs.jobs.drive import run
from modelfs.jobs.optimize.apply import Applier
from modelfs.jobs.optimize.backlog import BATCH_BYTES, Backlog
from modelfs.jobs.optimize.batch import BatchResult
from modelfs.jobs.optimize.job import optimize as optimize_job
from modelfs.jobs.optimize.worker import RunOptions, Worker
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.records import SUPERBLOCK
from modelfs.store.index.tables import ROOT, ChunkId, Table, number_key, number_of, pair_key
from modelfs.store.store import Store
from tests.support.paths import MODELS
from tests.support.run_jobs import collect, drain, ingest_all, ingest_file, optimize
from tests.support.stores import (
    Box,
    checked,
    content_of,
    new_file,
    new_store,
    noise,
    overwrite,
    pack_path,
    stored_file,
    tensors_of,
)

GRID: Final = 64 << 10

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[Box]:
    """A store with chunks of 64 KiB, large enough for deltas and planes to pay."""
    with checked(new_store(tmp_path, chunk_size=GRID)) as box:
        yield box


def real(name: str) -> bytes:
    return (MODELS / name).read_bytes()


def weights(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype(np.float32)


def f32(array: Array) -> tuple[str, tuple[int, ...], bytes]:
    return "F32", array.shape, np.ascontiguousarray(array).tobytes()


def put(store: Store, name: str, data: bytes) -> int:
    """Store and optimize a file, and return the number of stored bytes that it adds."""
    before = store.statistics(0).stored_bytes
    inode = stored_file(store, name.encode(), data)
    optimize(store)
    assert content_of(store, inode) == data
    return store.statistics(0).stored_bytes - before


def forms(store: Store) -> set[str]:
    return set(store.statistics(0).forms)


def remove(store: Store, name: bytes) -> None:
    inode = store.namespace.lookup(ROOT, name)
    store.namespace.unlink(ROOT, name)
    drain(store.orphans.remove(inode))


# -- related models


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("base-bf16.safetensors", 0.01),
        ("base-f16.safetensors", 0.01),
        ("base.onnx", 0.01),
        ("finetune.safetensors", 0.45),
        ("lora-merged.safetensors", 0.40),
        ("vocab-extended.safetensors", 0.02),
    ],
)
def test_a_relative_of_a_stored_model_costs_little(wide: Box, name: str, share: float) -> None:
    """A model made from a stored one adds few stored bytes."""
    put(wide.store, "base", real("base.safetensors"))
    assert put(wide.store, name, real(name)) <= share * len(real(name))


def test_a_bf16_finetune_costs_a_tenth(wide: Box) -> None:
    """A rounded fine-tune without its original is a small delta to the rounded base."""
    put(wide.store, "base", real("base-bf16.safetensors"))
    data = real("finetune-bf16.safetensors")
    assert put(wide.store, "finetune", data) <= 0.12 * len(data)


def test_a_narrower_copy_is_derived_from_a_later_original(wide: Box) -> None:
    """A rounded copy that was stored first is derived from the original that comes later."""
    put(wide.store, "bf16", real("base-bf16.safetensors"))
    put(wide.store, "f32", real("base.safetensors"))
    forms = wide.store.statistics(0).forms
    assert forms["cast"]["raw_bytes"] > 0.98 * len(real("base-bf16.safetensors"))


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the real model as quantised by onnxruntime: an embedding U8, and a matrix I8."""
    path = tmp_path_factory.mktemp("int8") / "int8.onnx"
    quantize_dynamic(MODELS / "base.onnx", path)
    return path.read_bytes()


def test_a_quantised_model_costs_little(wide: Box, int8: bytes) -> None:
    """The integers are derived from the floats, which were stored before."""
    put(wide.store, "base", real("base.onnx"))
    assert put(wide.store, "int8", int8) < 0.02 * len(int8)


def test_a_quantised_model_is_derived_from_a_later_original(wide: Box, int8: bytes) -> None:
    """The integers are derived from the floats, which were stored later, and read as before."""
    put(wide.store, "int8", int8)
    put(wide.store, "base", real("base.onnx"))
    both = wide.store.statistics(0).stored_bytes
    inode = wide.store.namespace.lookup(ROOT, b"int8")
    assert content_of(wide.store, inode) == int8
    remove(wide.store, b"int8")
    collect(wide.store)
    assert both - wide.store.statistics(0).stored_bytes < 0.02 * len(int8)


def test_all_parameters_of_quantisation_are_tried(wide: Box) -> None:
    """A quantised copy is derived by whichever of the usual scales made it, in every chunk."""
    values, how = quantised_otherwise()
    put(wide.store, "floats", tensors_of({"w": f32(values)}))
    numbers = quantise.quantised(values.reshape(-1), how)
    assert put(wide.store, "int8", tensors_of({"w": ("U8", values.shape, numbers)})) < 1000
    made = wide.store.statistics(0).forms["quantise"]
    assert made["raw_bytes"] == len(numbers)


def quantised_otherwise() -> tuple[Array, quantise.Parameters]:
    """Return a tensor, and the second parameters that are tried for it."""
    for seed in range(20):
        values = weights(seed, 500, 700)
        extremes = quantise.Extremes()
        extremes.feed(values.tobytes())
        first, second, *_ = quantise.candidates(extremes, "U8")
        made = [quantise.quantised(values.reshape(-1), each) for each in (first, second)]
        if first.scale != second.scale == pytest.approx(first.scale) and made[0] != made[1]:
            return values, second
    raise AssertionError("all scales are the same")


def test_a_fused_tensor_is_put_together_from_its_parts(wide: Box) -> None:
    """A tensor that concatenates stored query, key and value tensors is gathered from them."""
    parts = {name: weights(seed, 200, 130) for seed, name in enumerate("qkv")}
    put(wide.store, "parts", tensors_of({name: f32(part) for name, part in parts.items()}))
    fused = np.concatenate(list(parts.values()))
    assert put(wide.store, "fused", tensors_of({"qkv": f32(fused)})) < 0.01 * fused.nbytes


def test_parts_are_cut_out_of_a_fused_tensor(wide: Box) -> None:
    """A tensor that is a range of rows of a stored one is gathered from it."""
    fused = weights(7, 600, 130)
    put(wide.store, "fused", tensors_of({"qkv": f32(fused)}))
    parts = {name: f32(fused[at : at + 200]) for name, at in (("q", 0), ("k", 200), ("v", 400))}
    assert put(wide.store, "parts", tensors_of(parts)) < 0.01 * fused.nbytes


def test_zeros_are_stored_for_nothing(wide: Box) -> None:
    """A tensor of one value takes next to no space."""
    zeros = np.zeros((500, 300), np.float32)
    assert put(wide.store, "zeros", tensors_of({"zeros": f32(zeros)})) < 1000


def test_second_moments_are_factored(wide: Box) -> None:
    """A matrix of Adam's second moments is factored by rows and columns, at any chunk offset."""
    random = np.random.default_rng(1)
    scales = random.normal(0, 3, (999, 1)) + random.normal(0, 3, 100) - 9
    squares = (2 ** (scales + random.normal(0, 0.3, (999, 100)))).astype(np.float32)
    put(wide.store, "state", tensors_of({"v": f32(squares)}))
    assert set(forms(wide.store)) == {"factored", "plain"}


def test_noise_stays_plain(wide: Box) -> None:
    """A chunk without a smaller form stays plain, and is marked as optimized."""
    put(wide.store, "noise", tensors_of({"noise": ("U8", (200_000,), noise(200_000))}))
    plain = [record for record in records(wide.store) if record.form == "plain"]
    assert sum(record.size for record in plain if record.optimized) == 200_000


def records(store: Store) -> list[Chunk]:
    return [Chunk.from_bytes(value) for _, value in store.index.pages(Table.CHUNKS)]


def test_checkpoints_are_all_deltas_to_the_first(wide: Box) -> None:
    """With a depth of 1, no delta is the base of another."""
    steps = np.cumsum([weights(0, 300, 200), *(weights(n, 300, 200) / 500 for n in (1, 2, 3))], 0)
    for number, step in enumerate(steps):
        put(wide.store, f"checkpoint-{number}", tensors_of({"w": f32(step.astype(np.float32))}))
    deltas = [record for record in records(wide.store) if record.form == "delta"]
    assert len(deltas) == 3 * 4
    assert not any(record.dependants for record in deltas)


def test_depth_lets_deltas_follow_one_another(wide: Box) -> None:
    """With a depth of 2, a delta may be to a delta."""
    Backlog(wide.store).begin(depth=2)
    steps = np.cumsum([weights(0, 300, 200), *(weights(n, 300, 200) / 500 for n in (1, 2, 3))], 0)
    for number, step in enumerate(steps):
        put(wide.store, f"checkpoint-{number}", tensors_of({"w": f32(step.astype(np.float32))}))
    assert Backlog(wide.reopen()).depth == 2
    assert any(record.dependants for record in records(wide.store) if record.form == "delta")


def test_again_with_more_depth_makes_a_series_smaller(wide: Box) -> None:
    """`include_optimized` encodes optimized chunks again, to nearer bases if depth allows it."""
    steps = np.cumsum([weights(0, 300, 200), *(weights(n, 300, 200) / 500 for n in range(1, 7))], 0)
    files = {f"step-{n}": tensors_of({"w": f32(each)}) for n, each in enumerate(steps)}
    for name, data in files.items():
        put(wide.store, name, data)
    before = wide.store.statistics(0).stored_bytes
    optimize(wide.store, depth=4)
    assert wide.store.statistics(0).stored_bytes == before
    optimize(wide.store, depth=4, include_optimized=True)
    assert wide.store.statistics(0).stored_bytes < before
    assert not Backlog(wide.store).include_optimized
    for name, data in files.items():
        inode = wide.store.namespace.lookup(ROOT, name.encode())
        assert content_of(wide.store, inode) == data


# -- when files go


def test_bases_of_a_removed_file_are_freed(wide: Box) -> None:
    """Chunks that derived from a removed model are re-encoded, and the model's are freed."""
    for name in ("base", "finetune", "base-bf16"):
        put(wide.store, name, real(f"{name}.safetensors"))
    remove(wide.store, b"base")
    assert wide.store.statistics(0).base_only_chunks > 0
    optimize(wide.store)
    collect(wide.store)
    now = wide.store.statistics(0)
    assert now.base_only_chunks == 0
    assert now.stored_bytes < 0.9 * now.logical_bytes
    for name in ("finetune", "base-bf16"):
        inode = wide.store.namespace.lookup(ROOT, name.encode())
        assert content_of(wide.store, inode) == real(f"{name}.safetensors")


def test_dependants_of_a_removed_base_get_a_new_one(wide: Box) -> None:
    """Of several fine-tunes whose base is removed, one becomes the base of the others."""
    base = weights(0, 300, 200)
    put(wide.store, "base", tensors_of({"w": f32(base)}))
    for number in (1, 2, 3):
        tuned = base + weights(number, 300, 200) / np.float32(500)
        put(wide.store, f"tuned-{number}", tensors_of({"w": f32(tuned.astype(np.float32))}))
    remove(wide.store, b"base")
    optimize(wide.store)
    assert [record.form for record in records(wide.store)].count("delta") == 2 * 4


# -- interruptions


class Interrupted(Exception):
    pass


def test_a_run_goes_on_where_it_was_stopped(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches before an interruption are kept, and the next run does the rest."""
    monkeypatch.setattr("modelfs.jobs.optimize.backlog.BATCH_TENSORS", 1)
    inode = stored_file(wide.store, b"base", real("base.safetensors"))

    def stop(done: int, total: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        optimize(wide.store, stop)
    store = wide.crash()
    assert store.index.get(Table.TO_OPTIMIZE, number_key(inode)) is not None
    optimized = sum(record.optimized for record in records(store))
    assert 0 < optimized < len(records(store))
    backlog = optimize(store)
    assert backlog.next_batch() is None
    assert backlog.status().files == 0
    assert content_of(store, inode) == real("base.safetensors")


def work_on_next(store: Store, backlog: Backlog, *, stopped: bool = False) -> BatchResult:
    """Do the work of the next batch, without applying its result."""
    batch = backlog.next_batch()
    assert batch is not None
    options = RunOptions(backlog.depth, threads=1, include_optimized=backlog.include_optimized)
    with closing(Worker(store, options)) as worker:
        if stopped:
            worker.stop()
        return worker.work(batch, store.writer())


def test_a_stopped_batch_comes_again(wide: Box) -> None:
    """The result of a stopped batch is marked as such, and the batch is the next one again."""
    stored_file(wide.store, b"base", real("base.safetensors"))
    backlog = Backlog(wide.store)
    result = work_on_next(wide.store, backlog, stopped=True)
    assert result.stopped
    drain(Applier(wide.store, backlog).apply(result))
    assert backlog.next_batch() == result.batch


def test_a_file_that_changes_between_runs_is_begun_again(wide: Box) -> None:
    """A file that was listed again after a stop in its middle is optimized by the next run."""
    inode = stored_file(wide.store, b"base", real("base.safetensors"))
    backlog = Backlog(wide.store)
    assert backlog.next_batch() is not None
    wide.store.writes.write(inode, 900_000, b"changed")
    ingest_all(wide.store)
    backlog.begin()
    run(optimize_job(wide.store, backlog), wide.store)
    assert backlog.status().files == 0


def test_a_full_disk_loses_nothing(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that finds no room for its forms changes nothing, and the next one succeeds."""
    inode = stored_file(wide.store, b"base", real("base.safetensors"))

    def full(self: ChunkWriter) -> None:
        raise StoreFull("full")

    with monkeypatch.context() as patch:
        patch.setattr(ChunkWriter, "finish", full)
        with pytest.raises(StoreFull):
            optimize(wide.store)
    assert content_of(wide.store, inode) == real("base.safetensors")
    optimize(wide.store)
    assert forms(wide.store) >= {"planes"}


def test_a_damaged_tensor_stays_as_it_is(wide: Box, caplog: pytest.LogCaptureFixture) -> None:
    """Beside a tensor that cannot be read, the others get their forms."""
    store = wide.store
    inode = stored_file(store, b"base", real("base.safetensors"))
    extent = list(store.maps.overlapping(inode, 0, 1 << 30))[3]
    record = store.chunks.record(extent.chunk)
    good = store.chunk_reader.stored_bytes(extent.chunk, record)
    overwrite(pack_path(store.packs, record.pack), record.offset, noise(16))
    optimize(store)
    assert "stays as it is" in caplog.text
    caplog.clear()
    assert forms(store) >= {"planes", "plain"}
    now = store.chunks.record(extent.chunk)
    overwrite(pack_path(store.packs, now.pack), now.offset, good[:16])


def bad_sector(store: Store, patch: pytest.MonkeyPatch, chunk: ChunkId) -> None:
    """Let reads of a chunk's stored bytes fail with EIO."""
    record = store.chunks.record(chunk)
    bad = os.fspath(pack_path(store.packs, record.pack))

    def check(fd: int, offset: int, size: int) -> None:
        reached = offset < record.offset + record.stored and record.offset < offset + size
        if reached and os.readlink(f"/proc/self/fd/{fd}") == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def pread(fd: int, size: int, offset: int, real: Any = os.pread) -> Any:
        check(fd, offset, size)
        return real(fd, size, offset)

    def preadv(fd: int, into: Any, offset: int, real: Any = os.preadv) -> Any:
        check(fd, offset, sum(map(len, into)))
        return real(fd, into, offset)

    patch.setattr(os, "pread", pread)
    patch.setattr(os, "preadv", preadv)


def test_a_tensor_in_a_bad_sector_stays_as_it_is(
    wide: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside a tensor in a bad sector, the others get their forms, and the file's work ends."""
    store = wide.store
    inode = stored_file(store, b"base", real("base.safetensors"))
    extent = list(store.maps.overlapping(inode, 0, 1 << 30))[3]
    with monkeypatch.context() as patch:
        bad_sector(store, patch, extent.chunk)
        backlog = optimize(store)
    assert "stays as it is" in caplog.text
    caplog.clear()
    assert forms(store) >= {"planes", "plain"}
    assert backlog.status().files == 0
    optimize(store, include_optimized=True)
    assert store.chunks.record(extent.chunk).optimized


def test_a_source_in_a_bad_sector_is_not_used(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk whose source is in a bad sector gets a standalone form."""
    store = wide.store
    base = stored_file(store, b"base", real("base.safetensors"))
    optimize(store)
    extent = list(store.maps.overlapping(base, 0, 1 << 30))[3]
    inode = stored_file(store, b"tuned", real("finetune.safetensors"))
    store = wide.reopen()
    with monkeypatch.context() as patch:
        bad_sector(store, patch, extent.chunk)
        optimize(store)
    assert forms(store) >= {"delta"}
    assert not any(True for _ in store.chunks.lineage.dependants(extent.chunk))
    assert content_of(store, inode) == real("finetune.safetensors")


def test_a_bad_sector_keeps_one_base(
    wide: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A base-only chunk stays if its dependant is in a bad sector; other bases are freed."""
    store = wide.store
    for name in ("base", "finetune"):
        stored_file(store, name.encode(), real(f"{name}.safetensors"))
    optimize(store)
    remove(store, b"base")
    assert Backlog(store).status().base_only_chunks > 1
    chunk = next(
        chunk
        for key, _ in store.index.pages(Table.BASE_ONLY)
        for chunk in store.chunks.lineage.dependants(ChunkId(number_of(key)))
    )
    store = wide.reopen()
    with monkeypatch.context() as patch:
        bad_sector(store, patch, chunk)
        backlog = optimize(store)
    assert "cannot be re-encoded" in caplog.text
    caplog.clear()
    assert backlog.status().base_only_chunks == 1
    assert optimize(store).status().base_only_chunks == 0


def test_an_extent_past_its_chunk_ends_no_run(wide: Box, caplog: pytest.LogCaptureFixture) -> None:
    """A tensor with a wrong extent stays as it is, and the others get their forms."""
    store = wide.store
    inode = stored_file(store, b"base", real("base.safetensors"))
    extent = list(store.maps.overlapping(inode, 0, 1 << 30))[3]
    key = pair_key(inode, extent.start)
    good = store.index.get(Table.EXTENTS, key)
    assert good is not None
    with store.index.change():
        bad = dataclasses.replace(extent, skip=extent.skip + 8)
        store.index.put(Table.EXTENTS, key, bad.to_bytes())
    optimize(store)
    assert "stays as it is" in caplog.text
    caplog.clear()
    assert forms(store) >= {"planes", "plain"}
    with store.index.change():
        store.index.put(Table.EXTENTS, key, good)


def test_a_stopped_rebase_comes_again(wide: Box) -> None:
    """Base-only chunks that a stopped batch did not reach are in the next batch."""
    for name in ("base", "finetune"):
        put(wide.store, name, real(f"{name}.safetensors"))
    remove(wide.store, b"base")
    backlog = Backlog(wide.store)
    result = work_on_next(wide.store, backlog, stopped=True)
    assert result.batch.base_only
    assert not result.old_records
    assert not result.unchanged
    drain(Applier(wide.store, backlog).apply(result))
    assert backlog.next_batch() == result.batch


def test_a_file_that_is_being_written_waits(wide: Box) -> None:
    """A file with staged bytes is not optimized before it is ingested."""
    inode = stored_file(wide.store, b"base", real("base.safetensors"))
    wide.store.writes.write(inode, 100_000, b"staged")
    backlog = Backlog(wide.store)
    assert backlog.next_batch() is None
    ingest_all(wide.store)
    assert backlog.next_batch() is not None


def test_a_source_that_died_meanwhile_is_not_derived_from(wide: Box) -> None:
    """A form is not applied if its source has lost its last file since the work."""
    store = wide.store
    put(store, "base", real("base.safetensors"))
    inode = stored_file(store, b"finetune", real("finetune.safetensors"))
    backlog = Backlog(store)
    applier = Applier(store, backlog)
    result = work_on_next(store, backlog)
    remove(store, b"base")
    drain(store.publish(result.written, partial(applier.still_valid, result)))
    drain(applier.apply(result))
    assert "delta" not in forms(store)
    assert content_of(store, inode) == real("finetune.safetensors")


def test_a_large_file_is_optimized_in_batches(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of several batches is optimized completely."""
    assert BATCH_BYTES > GRID
    monkeypatch.setattr("modelfs.jobs.optimize.backlog.BATCH_BYTES", 50_000)
    tensors = {f"t{number}": f32(weights(number, 100, 40)) for number in range(20)}
    put(wide.store, "model", tensors_of(tensors))
    assert all(record.optimized for record in records(wide.store) if record.size == 16_000)


def test_a_store_of_format_1_is_walked(wide: Box) -> None:
    """Files without a row in TO_OPTIMIZE are optimized in a store that was upgraded."""
    inode = stored_file(wide.store, b"base", real("base.safetensors"))
    with wide.store.index.change():
        wide.store.index.delete(Table.TO_OPTIMIZE, number_key(inode))
        block = dataclasses.replace(wide.store.superblock, version=1)
        wide.store.index.put(Table.META, SUPERBLOCK, block.to_bytes())
    assert Backlog(wide.store).next_batch() is None
    store = wide.reopen()
    backlog = optimize(store)
    assert "planes" in forms(store)
    assert backlog.next_batch() is None


def test_a_listed_file_does_not_move_the_walk(wide: Box) -> None:
    """A walk reaches files with smaller numbers than a listed one, which is done first."""
    put(wide.store, "base", tensors_of({"w": f32(weights(0, 300, 200))}))
    stored_file(wide.store, b"later", tensors_of({"w": f32(weights(1, 300, 200))}))
    base = wide.store.namespace.lookup(ROOT, b"base")
    backlog = Backlog(wide.store)
    backlog.begin(include_optimized=True)
    assert base in set(batches(wide.store, backlog))


def batches(store: Store, backlog: Backlog) -> Iterator[int]:
    """Yield the inode of each batch of a run that changes nothing."""
    nothing = WriteResult({}, {}, {}, ())
    while (batch := backlog.next_batch()) is not None:
        yield batch.inode
        result = BatchResult(batch, nothing, {}, {}, [], damaged=0, stopped=False)
        drain(Applier(store, backlog).apply(result))


# -- everything together


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_files_read_as_they_were_written(wide: Box, seed: int) -> None:
    """Files keep their bytes while files come and go, and the store is optimized and crashes."""
    chance = random.Random(seed)
    models = {name.name: name.read_bytes() for name in sorted(MODELS.glob("*.safetensors"))}
    base = weights(seed, 250, 120)
    for number in range(3):
        tuned = base + weights(number, 250, 120) / np.float32(300)
        models[f"tuned-{number}"] = tensors_of(
            {"w": f32(tuned.astype(np.float32)), "t": f32(tuned.astype(np.float32).T)}
        )
    there: dict[str, bytes] = {}
    for _ in range(25):
        name, step = chance.choice(sorted(models)), chance.choice(STEPS)
        if step == "add" and name not in there:
            there[name] = models[name]
            ingest_file(wide.store, new_file(wide.store, name.encode(), models[name]))
        elif step == "remove" and there.pop(name, None) is not None:
            remove(wide.store, name.encode())
        else:
            do_step(wide, step)
    for name, data in there.items():
        inode = wide.store.namespace.lookup(ROOT, name.encode())
        assert content_of(wide.store, inode) == data


STEPS: Final = ("add", "add", "optimize", "remove", "collect", "crash")


def do_step(box: Box, step: str) -> None:
    match step:
        case "optimize":
            optimize(box.store)
        case "collect":
            collect(box.store)
        case "crash":
            box.store.commit()
            box.crash()
