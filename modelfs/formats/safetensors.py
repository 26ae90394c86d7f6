r"""The tensors of a safetensors file.

The format is the section "Format" of safetensors' README::

    offset  size  field
    0       8     n       u64, little-endian, at most 100,000,000
    8       n     header  JSON: {"name": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
                          ..., "__metadata__": {"key": "value", ...}}
    8 + n   rest  data    `data_offsets` count from here, and tile it: no hole, no overlap

Deviations, which change no span: white space may surround the header, names may come in any
order, an entry may have unknown fields, and `__metadata__` may be null. safetensors 0.8 accepts
all of these. It also accepts repeated names, and what such a file holds depends on who reads
it: repeated keys are refused here.

The header is walked one entry at a time instead of handed whole to `json`: of 100 MB of junk,
`json` would make objects of more than twenty times that size before anyone looked at them.
"""

import json
import re
from collections.abc import Iterator
from operator import attrgetter
from typing import Final, NoReturn, TypeGuard

from modelfs.formats.dtypes import SAFETENSORS_BITS, tensor_bits
from modelfs.formats.layout import (
    Format,
    Layout,
    MalformedModel,
    ReadAt,
    TensorSpan,
    TruncatedModel,
)

LENGTH_SIZE: Final = 8
MAX_HEADER_SIZE: Final = 100_000_000
METADATA: Final = "__metadata__"

# A bound on memory where a header is made of nothing but tiny entries: 262,144 tensors are past
# any model, and 100 MB have room for two million.
MAX_KEYS: Final = 1 << 18

# One entry is some 100 characters. Most are found in the first window; one that does not end in
# the last is no tensor's.
ENTRY_WINDOWS: Final = (512, 4096, 65536)

MAX_INTEGER: Final = 2**63

# Possessive quantifiers (`*+`) all through: the patterns need no backtracking, and without it
# they match a string of any length in linear time and constant memory.
_SPACE: Final = r"[ \t\n\r]*+"
_PLAIN: Final = r'[^"\\\x00-\x1f]*+'
_STRING: Final = rf'"{_PLAIN}(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{{4}}){_PLAIN})*+"'
_OPEN: Final = re.compile(rf"{_SPACE}\{{{_SPACE}(\}}?+)")
_KEY: Final = re.compile(rf"{_SPACE}({_STRING}){_SPACE}:{_SPACE}")
_VALUE: Final = re.compile(_STRING)
_NULL: Final = re.compile("null")
_NEXT: Final = re.compile(rf"{_SPACE}([,}}])")
_END: Final = re.compile(rf"{_SPACE}\Z")


def begins(head: bytes) -> bool:
    """Tell whether a file of these first 9 bytes could be one."""
    length = int.from_bytes(head[:LENGTH_SIZE], "little")
    return 2 <= length <= MAX_HEADER_SIZE and head[LENGTH_SIZE : LENGTH_SIZE + 1] in b"{ \t\n\r"


def scan(read_at: ReadAt, size: int, *, partial: bool = False) -> Layout:
    """Find the tensors of a safetensors file of `size` bytes.

    Args:
        read_at: reads the file; what it raises passes through.
        size: of the file, in bytes.
        partial: the file is still being written, so that its data may end early. All spans are
            returned, also those past `size`.

    Returns:
        Spans in file order. They tile the data section.

    Raises:
        TruncatedModel: the header is not there yet.
        MalformedModel: oversized header, bad JSON, or tensors that do not tile the data.
    """
    header = _read_header(read_at, size)
    base = LENGTH_SIZE + len(header)
    try:
        spans = _spans(_Header(header.decode()), base)
    except (ValueError, RecursionError) as exc:
        raise MalformedModel(f"header: {type(exc).__name__}") from exc
    stop = _tile(spans, base)
    if stop < size or (stop > size and not partial):
        raise MalformedModel(f"data stops at {stop} of {size} bytes")
    return Layout(Format.SAFETENSORS, tuple(spans))


def _read_header(read_at: ReadAt, size: int) -> bytes:
    head = read_at(0, LENGTH_SIZE + 1)
    if len(head) <= LENGTH_SIZE:
        raise TruncatedModel(f"{len(head)} bytes are no header")
    if not begins(head):
        raise MalformedModel("does not begin like a header")
    length = int.from_bytes(head[:LENGTH_SIZE], "little")
    if LENGTH_SIZE + length > size:
        raise TruncatedModel(f"header of {length} bytes in a file of {size}")
    header = read_at(LENGTH_SIZE, length)
    if len(header) < length:
        raise TruncatedModel(f"header of {length} bytes ends after {len(header)}")
    return header


class _Header:
    """A position in the header's text, which moves on by what is taken."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pos = 0

    def members(self) -> Iterator[str]:
        """Yield the keys of the object that begins here; the caller takes each one's value."""
        seen: set[str] = set()
        if self._take(_OPEN)[1]:
            return
        while True:
            literal = self._take(_KEY)[1]
            key = json.loads(literal) if "\\" in literal else literal[1:-1]
            if key in seen or len(seen) == MAX_KEYS:
                raise MalformedModel("a repeated key, or too many")
            seen.add(key)
            yield key
            if self._take(_NEXT)[1] == "}":
                return

    def take_entry(self) -> dict[str, object]:
        """Return the object that begins here, of some 64 Ki characters at most."""
        for window in ENTRY_WINDOWS[:-1]:
            try:
                return self._decode(window)
            except json.JSONDecodeError:
                continue
        return self._decode(ENTRY_WINDOWS[-1])

    def take_metadata(self) -> None:
        if _NULL.match(self._text, self._pos):
            self._take(_NULL)
            return
        for _ in self.members():
            self._take(_VALUE)

    def take_end(self) -> None:
        self._take(_END)

    def _decode(self, window: int) -> dict[str, object]:
        text = self._text[self._pos : self._pos + window]
        if not text.startswith("{"):
            raise MalformedModel(f"an entry at {self._pos} is no object")
        entry, size = _ENTRY.raw_decode(text)
        assert isinstance(entry, dict)
        self._pos += size
        return entry

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._pos)
        if match is None:
            raise MalformedModel(f"bad JSON at {self._pos}")
        self._pos = match.end()
        return match


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        raise MalformedModel("a repeated key")
    return entry


def _refuse(constant: str) -> NoReturn:
    raise MalformedModel(f"{constant} is not JSON")


_ENTRY: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)


def _spans(header: _Header, base: int) -> list[TensorSpan]:
    spans = []
    for name in header.members():
        if name == METADATA:
            header.take_metadata()
        else:
            spans.append(_span(name, header.take_entry(), base))
    header.take_end()
    # JSON can spell half of a surrogate pair (`\ud800`), which no UTF-8 name can hold.
    "".join(span.name for span in spans if not span.name.isascii()).encode()
    return spans


def _span(name: str, entry: dict[str, object], base: int) -> TensorSpan:
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in SAFETENSORS_BITS:
        raise MalformedModel(f"{name!r}: no such dtype")
    if not _are_naturals(shape) or not _are_naturals(offsets) or len(offsets) != 2:
        raise MalformedModel(f"{name!r}: bad shape or data_offsets")
    start, stop = offsets
    if tensor_bits(dtype, shape) != 8 * (stop - start):
        raise MalformedModel(f"{name!r}: its data is not the size of its shape")
    return TensorSpan(name, dtype, tuple(shape), base + start, base + stop)


def _are_naturals(value: object) -> TypeGuard[list[int]]:
    # Not isinstance: true and false are not numbers.
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < MAX_INTEGER for item in value
    )


def _tile(spans: list[TensorSpan], base: int) -> int:
    """Sort spans in place and return where the last stops."""
    spans.sort(key=attrgetter("start", "stop"))
    position = base
    for span in spans:
        if span.start != position:
            raise MalformedModel(f"{span.name!r} starts at {span.start}, not {position}")
        position = span.stop
    return position
