"""The output of a batch: each chunk is taken up once, and only smaller forms are appended."""

import dataclasses
from typing import Final

import pytest
from xxhash import xxh3_64_intdigest

from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import Element
from modelfs.codecs.zstd import Zstd
from modelfs.jobs.optimize.batch import Batch, BatchOutput, Target
from modelfs.jobs.optimize.forms import Form
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.tables import ChunkId, InodeNumber
from modelfs.store.index.tensor_records import TensorRow
from modelfs.store.store import Store
from tests.support.put_chunks import TEXT, load, put
from tests.support.run_jobs import drain
from tests.support.stores import pack_sizes

ELEMENT: Final = Element(4, 8)


PLAIN: Final = Form(ChunkKind.PLAIN, CodecId.RAW, TEXT, xxh3_64_intdigest(TEXT))
CODED: Final = dataclasses.replace(
    PLAIN, kind=ChunkKind.CODED, codec=CodecId.ZSTD, stored=Zstd().encode(TEXT)
)


@pytest.fixture
def target(opened: Store) -> Target:
    """A plain chunk without references, to encode."""
    (chunk,) = put(opened, TEXT)
    return Target(chunk, opened.chunks.record(chunk), 0)


@pytest.fixture
def output(opened: Store) -> BatchOutput:
    return BatchOutput(Batch(), opened.writer())


def test_a_chunk_is_taken_up_once(output: BatchOutput) -> None:
    """Of two tensors with the same chunk, the first encodes it."""
    claims = [output.claim(ChunkId(number)) for number in (1, 2, 1, 3, 2)]
    assert claims == [True, True, False, True, False]


def test_a_plain_chunk_that_stays_plain_is_not_appended(
    opened: Store, output: BatchOutput, target: Target
) -> None:
    """Its element is noted, so that it is marked as optimized, and no pack grows."""
    sizes = pack_sizes(opened)
    output.put(target, PLAIN, ELEMENT)
    result = output.finish(stopped=False)
    drain(opened.publish(result.written))
    assert result.unchanged == {target.chunk: ELEMENT.code}
    assert result.old_records == {}
    assert pack_sizes(opened) == sizes
    assert opened.chunks.record(target.chunk) == target.record


@pytest.mark.parametrize(("old", "new"), [(PLAIN, CODED), (CODED, PLAIN)], ids=["smaller", "plain"])
def test_a_new_form_replaces_the_stored_bytes(
    opened: Store, target: Target, old: Form, new: Form
) -> None:
    """A form of another kind is appended, with its element; the content reads as before."""
    for form in (old, new):
        record = opened.chunks.record(target.chunk)
        output = BatchOutput(Batch(), opened.writer())
        output.put(dataclasses.replace(target, record=record), form, ELEMENT)
        result = output.finish(stopped=False)
        drain(opened.publish(result.written))
    found = opened.chunks.record(target.chunk)
    assert (found.kind, found.codec, found.stored) == (new.kind, new.codec, len(new.stored))
    assert (found.optimized, found.element) == (True, ELEMENT.code)
    assert found.content_checksum == xxh3_64_intdigest(TEXT)
    assert result.old_records == {target.chunk: record}
    assert result.unchanged == {}
    assert load(opened, target.chunk) == TEXT


def test_bases_are_kept_with_their_dependants(output: BatchOutput, target: Target) -> None:
    """For each base that stays there is its number of dependants: it is tried when that changes."""
    records = {
        ChunkId(number): dataclasses.replace(target.record, dependants=number) for number in (3, 5)
    }
    for chunk, record in records.items():
        output.keep({chunk: record})
    result = output.finish(stopped=True)
    assert result.kept == {ChunkId(3): 3, ChunkId(5): 5}
    assert result.stopped


def test_the_size_of_a_batch_is_that_of_its_tensors() -> None:
    """A batch of bases has none."""
    rows = tuple(TensorRow(start, size, "U8", (size,), "t") for start, size in ((0, 10), (10, 7)))
    assert Batch(InodeNumber(5), rows=rows).bytes == 17
    assert Batch(base_only=(ChunkId(1),)).bytes == 0
