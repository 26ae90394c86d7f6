"""A walk over the fields of a protobuf message that reads framing and skips payload.

The wire format is protobuf.dev/programming-guides/encoding. A message is a run of fields, each a
tag, `number << 3 | wire type`, and a value::

    wire type   value
    0  VARINT   7 bits a byte, least significant first, bit 7 set on all but the last; 10 at most
    1  I64      8 bytes
    2  LEN      a varint n, then n bytes: a string, a message, or numbers in a row ("packed")
    3, 4        groups: long obsolete, refused
    5  I32      4 bytes

The walk is one loop with a position that only grows: entering a message pushes the place where
it stops, reaching that place pops it. So depth costs no Python stack, and a file of any size takes
the memory of one window and of the open messages.

Example. With the schema of ONNX the six bytes `08 08 3a 02 52 00` are::

    08 08        FIELD "ir_version", value 8
    3a 02        ENTER "GraphProto", from 4 to 6
          52 00  no event: field 10, of no bytes, is one to skip
                 LEAVE "GraphProto"
"""

import enum
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from modelfs.formats.layout import MalformedModel, ReadAt, TruncatedModel

VARINT: Final = 0
I64: Final = 1
LEN: Final = 2
I32: Final = 5

# The schema's word for a field to skip. `RUN` is the word for one to skip that is repeated without
# packing: a hundred million floats of a tree ensemble are skipped a window at a time.
SKIP: Final = "skip"
RUN: Final = "run"

# Unknown fields are skipped, for a later version of the schema may have them, but not any
# number: 127 is far above what ONNX has counted to, and junk seldom stays below it.
MAX_NUMBER: Final = 127

# protobuf's own limit: so many messages within the outermost ("SetRecursionLimit" in its C++
# library). `onnx.load` refuses deeper ones.
MAX_DEPTH: Final = 100

# A bound on time: messages entered and left count too. 2**23 take 5 to 9 s here; a model of
# 100,000 nodes with three attributes each has 2.6 million.
MAX_FIELDS: Final = 1 << 23

# Framing is read through a window. After a jump the next field is often another tensor, so the
# first window there is small; one that continues the last is large.
WINDOW: Final = 65536
WINDOW_AFTER_JUMP: Final = 2048

# How many fields of a run are matched at once.
RUN_STEP: Final = 1024

# Wire types whose value begins with a varint, and the width in bytes of the others.
_COUNTED: Final = frozenset({VARINT, LEN})
_WIDTHS: Final = {I64: 8, I32: 4}

MAX_VARINT: Final = 10
MAX_FRAMING: Final = 2 * MAX_VARINT


class Fields(dict[int, str]):
    """The schema's words for the fields of a message, by tag. A missing tag is malformed."""

    def __missing__(self, tag: int) -> str:
        raise MalformedModel(f"field {tag >> 3} cannot have wire type {tag & 7}")


# Maps the name of a message to the words for its fields: `SKIP`, `RUN`, the name of a message (the
# walk enters it), or any other name (the walk reports it).
Schema = Mapping[str, Fields]


def complete(fields: Mapping[int, str]) -> Fields:
    """Return `fields`, and every other number up to `MAX_NUMBER` as one to skip."""
    numbers = {tag >> 3 for tag in fields}
    others = set(range(1, MAX_NUMBER + 1)) - numbers
    skipped = {number << 3 | wire: SKIP for number in others for wire in (VARINT, I64, LEN, I32)}
    return Fields(skipped | dict(fields))


class Kind(enum.IntEnum):
    """The kind of an event."""

    ENTER = 0
    LEAVE = 1
    FIELD = 2


class Event(NamedTuple):
    """A message entered or left, or a field. Its value lies from `start` to `stop`.

    `word` is the schema's for it. `value` is the number if the field is a varint.
    """

    kind: Kind
    word: str
    tag: int
    start: int
    stop: int
    value: int


class Walk:
    """The events of one message, in file order."""

    def __init__(self, read_at: ReadAt, size: int, schema: Schema, root: str) -> None:
        self._read_at = read_at
        self._size = size
        self._schema = schema
        self._root = root
        self._window = b""
        self._base = 0  # where the window starts in the file
        self._safe = 0  # framing that starts before this index ends in the window

    def events(self) -> Iterator[Event]:
        """Walk over the message.

        Raises:
            TruncatedModel: the last field of the outermost message is cut off.
            MalformedModel: any other field runs past its message, or none can have that tag.
        """
        schema = self._schema
        table, pos, stop = schema[self._root], 0, self._size
        stack: list[tuple[Event, Fields, int]] = []
        for _ in range(MAX_FIELDS):
            if pos == stop:
                if not stack:
                    return
                left, table, stop = stack.pop()
                yield left
                continue
            tag, start, pos, value = self._field(pos, stop, nested=bool(stack))
            word = table[tag]
            if word == SKIP:
                continue
            if word == RUN:
                pos = self._run_stop(tag, pos, stop)
            elif word in schema:
                stack.append((Event(Kind.LEAVE, word, tag, start, pos, 0), table, stop))
                if len(stack) > MAX_DEPTH:
                    raise MalformedModel(f"messages nested over {MAX_DEPTH} deep")
                yield Event(Kind.ENTER, word, tag, start, pos, 0)
                table, pos, stop = schema[word], start, pos
            else:
                yield Event(Kind.FIELD, word, tag, start, pos, value)
        raise MalformedModel(f"more than {MAX_FIELDS} fields")

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes of the file, from the window where they are in it."""
        index = start - self._base
        if index >= 0 and stop - self._base <= len(self._window):
            return self._window[index : stop - self._base]
        return self._read_at(start, stop - start)

    def _field(self, pos: int, stop: int, *, nested: bool) -> tuple[int, int, int, int]:
        """Return tag, start and stop of the value, and the number or length that precedes it."""
        index = pos - self._base
        if not 0 <= index < self._safe:
            self._refill(pos)
            index = 0
        window = self._window
        try:
            tag, index = window[index], index + 1
            if tag > 0x7F:
                tag, index = _varint(window, index - 1)
            wire = tag & 7
            if wire in _COUNTED:
                value, index = window[index], index + 1
                if value > 0x7F:
                    value, index = _varint(window, index - 1)
            elif wire in _WIDTHS:
                value = _WIDTHS[wire]
            else:
                raise MalformedModel(f"field {tag >> 3} has wire type {wire}")
        except IndexError as exc:
            raise _overrun(pos, nested=nested) from exc
        start = self._base + index
        end = start if wire == VARINT else start + value
        if end > stop:
            raise _overrun(pos, nested=nested)
        return tag, start, end, value

    def _refill(self, pos: int) -> None:
        """Read the window that begins at a position."""
        follows = pos <= self._base + len(self._window)
        size = WINDOW if follows else WINDOW_AFTER_JUMP
        self._window = self._read_at(pos, size)
        self._base = pos
        length = len(self._window)
        self._safe = length if length < size else length - MAX_FRAMING

    def _run_stop(self, tag: int, pos: int, stop: int) -> int:
        """Return the end of the fields of this tag from `pos` on, or of those in the window."""
        run, at = _run(tag), pos - self._base
        while True:
            match = run.match(self._window, at, stop - self._base)
            assert match is not None  # no field at all is a run, too
            if match.end() == at:
                return self._base + at
            at = match.end()


def packed_varints(data: bytes) -> Iterator[int]:
    """Yield the numbers of a packed field.

    Raises:
        MalformedModel: the last one is cut off, or one is longer than it may be.
    """
    index = 0
    while index < len(data):
        try:
            value, index = _varint(data, index)
        except IndexError as exc:
            raise MalformedModel("packed field ends within a number") from exc
        yield value


def _varint(data: bytes, index: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * MAX_VARINT, 7):
        byte = data[index]
        index += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index
    raise MalformedModel(f"number of over {MAX_VARINT} bytes")


def _overrun(pos: int, *, nested: bool) -> MalformedModel:
    refusal = MalformedModel if nested else TruncatedModel
    return refusal(f"field at {pos} runs past its message")


# Bounded: only tags of a schema are passed, and they are below 2**10.
@functools.cache
def _run(tag: int) -> re.Pattern[bytes]:
    """Return a pattern of no field of this tag up to `RUN_STEP` of them."""
    value = {
        VARINT: rb"[\x80-\xff]{0,9}[\x00-\x7f]",
        I32: rb".{4}",
        I64: rb".{8}",
    }[tag & 7]
    head = bytes([tag]) if tag < 0x80 else bytes([tag & 0x7F | 0x80, tag >> 7])
    # Each field that could be given back costs memory, hence so many at a time. Not a possessive
    # repetition: before Python 3.11.4 it ends in the middle of the field that does not match
    # (gh-101955).
    return re.compile(rb"(?:%b%b){0,%d}" % (re.escape(head), value, RUN_STEP), re.DOTALL)
