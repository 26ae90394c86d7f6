r"""The tensors of a safetensors file.

The format is the section "Format" of safetensors' README::

    offset  size  field
    0       8     n       u64, little-endian, at most 100,000,000
    8       n     header  JSON: {"name": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
                          ..., "__metadata__": {"key": "value", ...}}
    8 + n   rest  data    `data_offsets` count from here, and tile it: no hole, no overlap

Deviations, which change no span: white space may surround the header, names may come in any
order, an entry may have unknown fields, and `__metadata__` may be null. safetensors 0.8 accepts
all of these. It also accepts repeated names, of which one reader uses the first and another the
last: repeated keys are refused here.

The header is read one entry at a time, through a window, and not passed whole to `json`: of 100 MB
of junk, `json` would make objects of more than twenty times that size before the first check. So a
scan has limits: some 64 Ki characters for a name and for an entry, and a `MemoryBudget` for names
and spans. A file beyond them is kept as plain bytes.

Example. The header `{"w":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}}` has 57 bytes. So the
data begin at 65, and a file of 77 bytes has the span `TensorSpan("w", "F16", (2, 3), 65, 77)`.
"""

import codecs
import json
import re
import sys
from collections.abc import Iterator
from operator import attrgetter
from typing import Final, NoReturn, TypeGuard

from modelfs.formats.budget import MemoryBudget
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

# One entry is some 100 characters. Most are found in the first window; one that does not end in
# the last is no tensor's.
ENTRY_WINDOWS: Final = (512, 4096, 65536)

# No name is longer, as it stands in the header.
MAX_NAME: Final = ENTRY_WINDOWS[-1]

# Bytes of the header that are read at a time.
WINDOW: Final = 1 << 18

MAX_INTEGER: Final = 2**63

# How many escapes of a string are matched at once.
ESCAPES_STEP: Final = 1024

# Possessive quantifiers (`*+`): the patterns need no backtracking, and without it they match a run
# of any length in linear time and constant memory. Not so for the escapes: before Python 3.11.4, a
# possessive repetition of a group ends in the middle of the escape that does not match (gh-101955).
# Each escape that could be given back costs memory, hence so many at a time.
_PLAIN: Final = r'[^"\\\x00-\x1f]*+'
_ESCAPE: Final = r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
_ESCAPE_SIZE: Final = 6
_SPACE: Final = re.compile(r"[ \t\n\r]*+")
_INSIDE: Final = re.compile(rf"{_PLAIN}(?:{_ESCAPE}{_PLAIN}){{0,{ESCAPES_STEP}}}")
_NULL: Final = "null"


def begins(head: bytes) -> bool:
    """Return whether a file that begins with these 9 bytes could be one of safetensors."""
    length = int.from_bytes(head[:LENGTH_SIZE], "little")
    return 2 <= length <= MAX_HEADER_SIZE and head[LENGTH_SIZE : LENGTH_SIZE + 1] in b"{ \t\n\r"


def scan(read_at: ReadAt, size: int, *, partial: bool = False) -> Layout:
    """Find the tensors of a safetensors file of `size` bytes.

    Args:
        read_at: reads the file; its exceptions pass through.
        size: of the file, in bytes.
        partial: the file is still being written, so that its data may end early. All spans are
            returned, also those past `size`.

    Returns:
        Spans in file order. They tile the data section.

    Raises:
        TruncatedModel: the header is not there yet.
        MalformedModel: oversized header, bad JSON, or tensors that do not tile the data.
    """
    length = _header_size(read_at, size)
    header, base = _Header(read_at, length), LENGTH_SIZE + length
    spans: list[TensorSpan] = []
    try:
        for name in header.members():
            if name == METADATA:
                header.read_metadata()
            else:
                spans.append(header.keep(_span(name, header.read_entry(), base)))
        header.read_end()
    except (ValueError, RecursionError) as exc:
        raise MalformedModel(f"header: {type(exc).__name__}") from exc
    stop = _tile(spans, base)
    if stop < size or (stop > size and not partial):
        raise MalformedModel(f"data stops at {stop} of {size} bytes")
    return Layout(Format.SAFETENSORS, tuple(spans))


def _header_size(read_at: ReadAt, size: int) -> int:
    head = read_at(0, LENGTH_SIZE + 1)
    if len(head) <= LENGTH_SIZE:
        raise TruncatedModel(f"{len(head)} bytes are no header")
    if not begins(head):
        raise MalformedModel("does not begin like a header")
    length = int.from_bytes(head[:LENGTH_SIZE], "little")
    if LENGTH_SIZE + length > size:
        raise TruncatedModel(f"header of {length} bytes in a file of {size}")
    return length


class _Header:
    """A position in the header's text, which moves past each part that is read.

    `_text` is a window on the text. Characters before the position may be gone; those behind it
    are there as far as `_fill` was called for them.
    """

    def __init__(self, read_at: ReadAt, size: int) -> None:
        self._read_at = read_at
        self._at = LENGTH_SIZE
        self._stop = LENGTH_SIZE + size
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._pos = 0
        self._budget = MemoryBudget()

    def members(self) -> Iterator[str]:
        """Yield the keys of the object that begins here; the caller reads the value of each."""
        seen: set[str] = set()
        self._expect("{")
        if self._peek() == "}":
            self._pos += 1
            return
        while True:
            key = self._read_name()
            if key in seen:
                raise MalformedModel("a repeated key")
            seen.add(key)
            yield key
            if self._expect(",}") == "}":
                return

    def read_entry(self) -> dict[str, object]:
        """Return the object that begins here, of some 64 Ki characters at most."""
        if self._peek() != "{":
            raise MalformedModel("an entry is no object")
        for window in ENTRY_WINDOWS[:-1]:
            try:
                return self._decode(window)
            except json.JSONDecodeError:
                continue
        return self._decode(ENTRY_WINDOWS[-1])

    def read_metadata(self) -> None:
        if self._peek() == "n":
            self._fill(len(_NULL))
            if not self._text.startswith(_NULL, self._pos):
                raise MalformedModel("metadata is no object")
            self._pos += len(_NULL)
            return
        for _ in self.members():
            self._skip_string()

    def read_end(self) -> None:
        if self._peek():
            raise MalformedModel("something follows the header's object")

    def keep(self, span: TensorSpan) -> TensorSpan:
        """Return the span, if there is memory for it."""
        self._budget.reserve_span(len(span.shape))
        return span

    def _read_name(self) -> str:
        self._expect('"')
        self._fill(MAX_NAME)
        stop = _inside_stop(self._text, self._pos)
        if not self._text.startswith('"', stop):
            raise MalformedModel("bad JSON, or a name that is too long")
        inside = self._text[self._pos : stop]
        self._pos = stop + 1
        name: str = json.loads(f'"{inside}"') if "\\" in inside else inside
        self._budget.reserve_name(name)
        self._expect(":")
        return name

    def _skip_string(self) -> None:
        """Move past a string of any length, and keep nothing of it."""
        self._expect('"')
        while True:
            self._fill(_ESCAPE_SIZE)
            start, self._pos = self._pos, _inside_stop(self._text, self._pos)
            if self._text.startswith('"', self._pos):
                break
            if self._pos == start:
                raise MalformedModel("bad JSON in a string, or no end of it")
        self._pos += 1

    def _decode(self, window: int) -> dict[str, object]:
        self._fill(window)
        entry, size = _ENTRY.raw_decode(self._text[self._pos : self._pos + window])
        assert isinstance(entry, dict)
        self._pos += size
        return entry

    def _expect(self, wanted: str) -> str:
        """Move past the next character that is no white space, and return it.

        Raises:
            MalformedModel: it is none of those wanted.
        """
        character = self._peek()
        if not character or character not in wanted:
            raise MalformedModel(f"bad JSON: {character!r} in place of one of {wanted!r}")
        self._pos += 1
        return character

    def _peek(self) -> str:
        """Move to the next character that is no white space, and return it; "" at the end."""
        while True:
            match = _SPACE.match(self._text, self._pos)
            assert match is not None
            self._pos = match.end()
            if self._pos < len(self._text):
                return self._text[self._pos]
            if self._at == self._stop:
                return ""
            self._fill(1)

    def _fill(self, size: int) -> None:
        """Have `size` characters from the position on in the window, or all that are left."""
        while len(self._text) - self._pos < size and self._at < self._stop:
            wanted = min(WINDOW, self._stop - self._at)
            data = self._read_at(self._at, wanted)
            if len(data) < wanted:
                raise TruncatedModel(f"the header ends after {self._at + len(data)} bytes")
            self._at += wanted
            more = self._decoder.decode(data, final=self._at == self._stop)
            self._text = self._text[self._pos :] + more
            self._pos = 0


def _inside_stop(text: str, start: int) -> int:
    """Return the end of the characters from `start` on that may be inside a string."""
    while True:
        match = _INSIDE.match(text, start)
        assert match is not None  # no character at all is inside, too
        if match.end() == start or text.startswith('"', match.end()):
            return match.end()
        start = match.end()


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        raise MalformedModel("a repeated key")
    return entry


def _refuse(constant: str) -> NoReturn:
    raise MalformedModel(f"{constant} is not JSON")


_ENTRY: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)


def _span(name: str, entry: dict[str, object], base: int) -> TensorSpan:
    # JSON can spell half of a surrogate pair (`\ud800`), which no UTF-8 name can hold.
    name.encode()
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in SAFETENSORS_BITS:
        raise MalformedModel(f"{name!r}: no such dtype")
    if not _are_naturals(shape) or not _are_naturals(offsets) or len(offsets) != 2:
        raise MalformedModel(f"{name!r}: bad shape or data_offsets")
    start, stop = offsets
    if tensor_bits(dtype, shape) != 8 * (stop - start):
        raise MalformedModel(f"{name!r}: its data is not the size of its shape")
    return TensorSpan(name, sys.intern(dtype), tuple(shape), base + start, base + stop)


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
