"""Forms: the ways in which one chunk's content can be stored.

Every form that comes from here was decoded, and compared with the content.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from modelfs.codecs import CODECS, DERIVATIONS
from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import Element
from modelfs.codecs.factored import Grid
from modelfs.codecs.smallest import encode_tensor
from modelfs.store.chunks.recipe import Recipe, SourceRun, joined
from modelfs.store.index.records import ChunkKind
from modelfs.store.index.tables import ChunkId

# What deriving has to save against a form that needs no other chunk, in bytes: the rows of the
# index that say so take about this much.
SAVED_MIN: Final = 256
# And as a part of the content: reading it costs the source and another decode.
SAVED_PART: Final = 0.02


@dataclass(frozen=True, slots=True)
class Form:
    """What could be stored of a chunk."""

    kind: ChunkKind
    codec: CodecId
    stored: bytes
    sources: tuple[ChunkId, ...] = ()

    @property
    def is_derived(self) -> bool:
        return self.kind is ChunkKind.DERIVED


def by_itself(content: bytes, element: Element, grid: Grid | None = None) -> Form:
    """Return the smallest form that needs no other chunk."""
    codec, stored = encode_tensor(content, element, grid)
    # What does not decode at all raises the same as what was damaged: then it stays as it is.
    with contextlib.suppress(ValueError):
        if codec is not CodecId.RAW and CODECS[codec].decode(stored, len(content)) == content:
            return Form(ChunkKind.CODED, codec, stored)
    return Form(ChunkKind.PLAIN, CodecId.RAW, content)


def derived(
    codec: CodecId, content: bytes, runs: Sequence[SourceRun], source: bytes, payload: bytes
) -> Form | None:
    """Return the form that makes the content from runs of other chunks, None if it does not.

    Args:
        codec: of the derivation.
        content: to be stored.
        runs: the source.
        source: the bytes of `runs`.
        payload: what the codec needs beside them.
    """
    recipe = Recipe(joined(runs), payload)
    try:
        if DERIVATIONS[codec].decode(payload, len(content), source) != content:
            return None
    except ValueError:
        return None
    return Form(ChunkKind.DERIVED, codec, recipe.to_bytes(), recipe.sources)


def near_or_alone(
    near: Form | None, content: bytes, element: Element, grid: Grid | None = None
) -> Form:
    """Return the derived form of a content if there is one and it is worth it, else its own."""
    alone = by_itself(content, element, grid)
    worth = near is not None and is_worth(near, len(content), len(alone.stored))
    return near if near is not None and worth else alone


def is_worth(form: Form, size: int, otherwise: int) -> bool:
    """Whether a derived form saves enough against `otherwise` stored bytes."""
    return len(form.stored) + max(SAVED_MIN, int(SAVED_PART * size)) <= otherwise
