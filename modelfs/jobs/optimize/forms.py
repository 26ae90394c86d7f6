"""Forms: the ways to store the content of one chunk.

A *standalone* form needs no other chunk: the content in byte planes or by another codec, or plain.
A *derived* form is a recipe: runs of other chunks, and a payload by which a codec makes the content
from these runs. Each form returned here was decoded, and the result compared with the content.

Example. The word embeddings of a fine-tune, 393,216 bytes, take some 328,000 bytes in a standalone
form and 54,851 as a delta to those of the base. The delta saves more than `SAVED_PART` of the
content, so it is the smallest form.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from xxhash import xxh3_64_intdigest

from modelfs.codecs import CODECS, DERIVATIONS
from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import Element
from modelfs.codecs.factored import Grid
from modelfs.codecs.smallest import encode_tensor
from modelfs.store.chunks.recipe import Recipe, SourceRun, joined
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.tables import ChunkId

# A derived form has to save this many bytes against a standalone one: about the size of the rows
# of the index that a derivation takes.
SAVED_MIN: Final = 256
# And this part of the content: to read it costs a read of the source and another decode.
SAVED_PART: Final = 0.02


@dataclass(frozen=True, slots=True)
class Form:
    """The stored bytes of a chunk, with their kind and codec, and the checksum of its content."""

    kind: ChunkKind
    codec: CodecId
    stored: bytes
    content_checksum: int
    sources: tuple[ChunkId, ...] = ()

    @property
    def is_derived(self) -> bool:
        return self.kind is ChunkKind.DERIVED


def standalone_form(content: bytes, element: Element, grid: Grid | None = None) -> Form:
    """Return the smallest form that needs no other chunk."""
    codec, stored = encode_tensor(content, element, grid)
    # A wrong encoding may also fail to decode; then the chunk stays plain.
    with contextlib.suppress(ValueError):
        if codec is not CodecId.RAW and CODECS[codec].decode(stored, len(content)) == content:
            return Form(ChunkKind.CODED, codec, stored, xxh3_64_intdigest(content))
    return Form(ChunkKind.PLAIN, CodecId.RAW, content, xxh3_64_intdigest(content))


def derived_form(
    codec: CodecId, content: bytes, runs: Sequence[SourceRun], source: bytes, payload: bytes
) -> Form | None:
    """Return the form that derives a content from runs of other chunks, None if it decodes wrong.

    Args:
        codec: of the derivation.
        content: of the chunk.
        runs: the source.
        source: the bytes of `runs`.
        payload: of the codec, stored behind the runs.
    """
    recipe = Recipe(joined(runs), payload)
    try:
        if DERIVATIONS[codec].decode(payload, len(content), source) != content:
            return None
    except ValueError:
        return None
    checksum = xxh3_64_intdigest(content)
    return Form(ChunkKind.DERIVED, codec, recipe.to_bytes(), checksum, recipe.sources)


def smallest_form(
    content: bytes, element: Element, grid: Grid | None = None, *, delta: Form | None = None
) -> Form:
    """Return `delta` if it saves enough against the standalone form, and that form otherwise."""
    standalone = standalone_form(content, element, grid)
    if delta is not None and saves_enough(delta, len(content), len(standalone.stored)):
        return delta
    return standalone


def saves_enough(derived: Form, size: int, stored: int) -> bool:
    """Whether a derived form of a content of `size` bytes is worth it against `stored` bytes."""
    return len(derived.stored) + max(SAVED_MIN, int(SAVED_PART * size)) <= stored
