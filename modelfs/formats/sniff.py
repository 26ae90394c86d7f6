"""Recognition of a file's format, from its content alone.

A file's name is no help: blobs of the Hub and of Ollama have no extension. The first bytes decide
which scanner is tried, and a file is a model only if all of it is consistent.

Example. `00 01 00 00 00 00 00 00 7b`, a length of 256 and `{`, may begin a safetensors file, `08`
an ONNX model, and `50 4b 03 04` an archive of torch. Any other file is plain.
"""

from collections.abc import Iterable
from operator import attrgetter
from typing import Final, Literal, overload

from modelfs.formats import safetensors
from modelfs.formats.layout import (
    PLAIN,
    Format,
    Layout,
    MalformedModel,
    ReadAt,
    TensorSpan,
    TruncatedModel,
)
from modelfs.formats.onnx import scan as onnx
from modelfs.formats.torch import archive as torch

# First bytes by which a scanner is chosen; any model is longer.
HEAD_SIZE: Final = 9


@overload
def recognise(read_at: ReadAt, size: int, *, partial: Literal[False] = False) -> Layout: ...


@overload
def recognise(read_at: ReadAt, size: int, *, partial: bool) -> Layout | None: ...


def recognise(read_at: ReadAt, size: int, *, partial: bool = False) -> Layout | None:
    """Return the layout of a file of `size` bytes: `PLAIN` unless all of it is a consistent model.

    No content makes it raise; exceptions of `read_at` pass through.

    Args:
        read_at: reads the file.
        size: of the file, in bytes.
        partial: the file may still grow. All bytes below `size` are taken for final.

    Returns:
        Of a whole file, always its layout. Of a partial one:

        - the layout, if more bytes cannot change it. So it is with safetensors once the header is
          there: spans may then stop, or start, past `size`.
        - `PLAIN`, if no growth can make it a model.
        - None, if more bytes decide: ask again when the file is whole. So it is with an ONNX model,
          in which more fields may follow wherever one stops, and with a zip archive, whose
          directory comes last.
    """
    head = read_at(0, HEAD_SIZE)
    if len(head) < HEAD_SIZE:
        return None if partial else PLAIN
    try:
        if safetensors.begins(head):
            return safetensors.scan(read_at, size, partial=partial)
        if onnx.begins(head):
            layout = onnx.scan(read_at, size)
            return None if partial else layout
        if torch.begins(head):
            return None if partial else torch.scan(read_at, size)
    except TruncatedModel:
        return None if partial else PLAIN
    except MalformedModel:
        pass
    return PLAIN


def external_layout(spans: Iterable[TensorSpan], size: int) -> Layout:
    """Return the layout of a data file of `size` bytes in which models name these tensors.

    The order of `spans` does not matter. Those that are empty or not all in the file are left
    out. So is one that overlaps another which starts before it, or starts with it and is shorter
    or has a lesser name: a range that several tensors share is kept once.
    """
    inside = [span for span in spans if 0 <= span.start < span.stop <= size]
    inside.sort(key=attrgetter("start", "stop", "name", "dtype", "shape"))
    kept: list[TensorSpan] = []
    for span in inside:
        if not kept or kept[-1].stop <= span.start:
            kept.append(span)
    return Layout(Format.ONNX_DATA, tuple(kept)) if kept else PLAIN
