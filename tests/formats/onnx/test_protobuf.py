"""Walking over protobuf messages."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.formats.layout import MalformedModel, TruncatedModel
from modelfs.formats.onnx import protobuf
from modelfs.formats.onnx.protobuf import (
    I32,
    I64,
    LEN,
    MAX_DEPTH,
    MAX_NUMBER,
    RUN,
    SKIP,
    VARINT,
    Event,
    Kind,
    Walk,
    complete,
    packed_varints,
)
from tests.support.file_bytes import field, reader, varint

SCHEMA = {
    "node": complete(
        {
            1 << 3 | LEN: "node",
            2 << 3 | LEN: "bytes",
            3 << 3 | VARINT: "number",
            4 << 3 | I32: "word",
            5 << 3 | I64: "long",
            6 << 3 | VARINT: RUN,
            7 << 3 | I32: RUN,
            20 << 3 | I64: RUN,
            8 << 3 | LEN: SKIP,
        }
    )
}


def walk(content: bytes) -> list[Event]:
    return list(Walk(reader(content), len(content), SCHEMA, "node").events())


def fields(content: bytes) -> list[tuple[str, bytes, int]]:
    return [
        (event.word, content[event.start : event.stop], event.value)
        for event in walk(content)
        if event.kind is Kind.FIELD
    ]


def test_each_wire_type_is_read() -> None:
    """Fields are reported with the bytes of their value, or their number."""
    content = (
        field(2, LEN, b"abc")
        + field(3, VARINT, varint(300))
        + field(4, I32, b"four")
        + field(5, I64, b"eight...")
    )
    assert fields(content) == [
        ("bytes", b"abc", 3),
        ("number", b"", 300),
        ("word", b"four", 4),
        ("long", b"eight...", 8),
    ]


def test_messages_are_entered_and_left_in_file_order() -> None:
    """Messages are entered and left at any depth, empty ones included."""
    content = field(1, LEN, field(1, LEN, b"") + field(3, VARINT, b"\x01")) + field(2, LEN, b"x")
    kinds = [(event.kind, event.word) for event in walk(content)]
    assert kinds == [
        (Kind.ENTER, "node"),
        (Kind.ENTER, "node"),
        (Kind.LEAVE, "node"),
        (Kind.FIELD, "number"),
        (Kind.LEAVE, "node"),
        (Kind.FIELD, "bytes"),
    ]


def test_enter_and_leave_tell_the_same_range() -> None:
    """Both events of a message have its tag and the place of its content."""
    enter, leave = walk(field(1, LEN, field(8, LEN, b"skipped")))
    assert enter._replace(kind=Kind.LEAVE) == leave
    assert (enter.tag, enter.start, enter.stop) == (1 << 3 | LEN, 2, 11)


def test_unknown_numbers_are_skipped() -> None:
    """Fields of a later version of the schema are skipped, of any wire type."""
    later = b"".join(
        field(MAX_NUMBER, wire, value)
        for wire, value in [
            (VARINT, varint(2**64 - 1)),
            (I64, bytes(8)),
            (LEN, b"x"),
            (I32, b"4444"),
        ]
    )
    assert fields(later + field(2, LEN, b"abc")) == [("bytes", b"abc", 3)]


def test_a_run_ends_with_its_message() -> None:
    """A run ends with its message, although fields of the same tag follow."""
    run = field(7, I32, b"abcd") * 3
    content = field(1, LEN, run) + run + field(2, LEN, b"abc")
    assert [event.kind for event in walk(content)] == [Kind.ENTER, Kind.LEAVE, Kind.FIELD]


def test_a_file_that_shrinks_within_a_run_is_truncated() -> None:
    """A run that ends before the promised size is truncated, not endless."""
    content = field(7, I32, b"abcd") * 3
    for size in range(len(content)):
        with pytest.raises(TruncatedModel):
            list(Walk(reader(content[:size]), len(content), SCHEMA, "node").events())


FIELD_VALUES = st.one_of(
    st.tuples(st.just(2), st.just(LEN), st.binary(max_size=200)),
    st.tuples(st.just(8), st.just(LEN), st.binary(max_size=200)),
    st.tuples(st.just(3), st.just(VARINT), st.integers(0, 2**64 - 1).map(varint)),
    st.tuples(st.just(6), st.just(VARINT), st.integers(0, 2**64 - 1).map(varint)),
    st.tuples(st.just(4), st.just(I32), st.binary(min_size=4, max_size=4)),
    st.tuples(st.just(7), st.just(I32), st.binary(min_size=4, max_size=4)),
    st.tuples(st.just(5), st.just(I64), st.binary(min_size=8, max_size=8)),
    st.tuples(st.just(20), st.just(I64), st.binary(min_size=8, max_size=8)),
)
REPORTED = {2: "bytes", 3: "number", 4: "word", 5: "long"}


@given(
    values=st.lists(st.tuples(FIELD_VALUES, st.integers(1, 30)), max_size=20),
    window=st.integers(protobuf.MAX_FRAMING + 1, 100),
    after_jump=st.integers(protobuf.MAX_FRAMING + 1, 100),
)
def test_any_window_shows_the_same(
    values: list[tuple[tuple[int, int, bytes], int]], window: int, after_jump: int
) -> None:
    """Fields that straddle the window's edge are read as others are, in runs or alone."""
    items = [item for item, count in values for _ in range(count)]
    content = b"".join(field(*item) for item in items)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protobuf, "WINDOW", window)
        patch.setattr(protobuf, "WINDOW_AFTER_JUMP", after_jump)
        found = fields(content)
    expected = [(REPORTED[number], value) for number, _, value in items if number in REPORTED]
    numbers = [
        next(packed_varints(value))
        for number, wire, value in items
        if number in REPORTED and wire == VARINT
    ]
    assert [(what, b"" if what == "number" else value) for what, value, _ in found] == [
        (what, b"" if what == "number" else value) for what, value in expected
    ]
    assert [value for what, _, value in found if what == "number"] == numbers


MALFORMED = {
    "field 0": field(0, VARINT, b"\x01"),
    "number past the last": field(MAX_NUMBER + 1, VARINT, b"\x01"),
    "group": field(9, 3, b"") + field(9, 4, b""),
    "end of group": field(9, 4, b""),
    "wire type 6": field(9, 6, b""),
    "wire type 7": field(9, 7, b""),
    "known number, other wire type": field(2, VARINT, b"\x01"),
    "endless varint": field(3, VARINT, b"\x80" * 11 + b"\x01"),
    "endless tag": b"\xff" * 11 + b"\x01",
    "endless length": b"\x12" + b"\xff" * 11 + b"\x01",
    "length past the parent": field(1, LEN, b"\x12\x05abc") + field(2, LEN, b"defghi"),
    "tag past the parent": field(1, LEN, b"\x92") + b"\x01" + b"\x00" * 20,
    "number past the parent": field(1, LEN, b"\x18\x80") + b"\x01" + b"\x00" * 20,
    "word past the parent": field(1, LEN, b"\x25abc") + field(2, LEN, b"defghi"),
    "run past the parent": field(1, LEN, field(7, I32, b"abcd") + b"\x3dab")
    + field(2, LEN, b"defghi"),
    "number cut at the end": field(1, LEN, b"\x18\x80"),
    "length of 2**63": b"\x0a\x0b\x12" + varint(2**63),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_bad_framing_is_refused(content: bytes) -> None:
    """Bytes that begin no message are malformed, not truncated."""
    with pytest.raises(MalformedModel) as refusal:
        walk(content)
    assert type(refusal.value) is MalformedModel


def test_a_cut_message_is_truncated() -> None:
    """A message that ends inside a field is truncated; between two fields it is complete."""
    parts = [field(2, LEN, b"abc"), field(3, VARINT, varint(300)), field(1, LEN, b"\x18\x01")]
    ends = {0, *itertools.accumulate(map(len, parts))}
    content = b"".join(parts)
    for size in range(len(content)):
        if size in ends:
            walk(content[:size])
        else:
            with pytest.raises(TruncatedModel):
                walk(content[:size])


def test_a_file_that_shrinks_is_truncated() -> None:
    """A file shorter than its promised size is truncated, not malformed."""
    with pytest.raises(TruncatedModel):
        list(Walk(reader(b""), 100, SCHEMA, "node").events())


def nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = field(1, LEN, content)
    return content


def test_depth_is_bounded() -> None:
    """Messages may nest as deep as protobuf itself allows, and no deeper."""
    assert len(walk(nested(MAX_DEPTH))) == 2 * MAX_DEPTH
    for depth in (MAX_DEPTH + 1, 10_000):
        with pytest.raises(MalformedModel, match="deep"):
            walk(nested(depth))


def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More fields than the bound are refused."""
    monkeypatch.setattr(protobuf, "MAX_FIELDS", 100)
    with pytest.raises(MalformedModel, match="100 fields"):
        walk(field(8, LEN, b"") * 100)


def test_payload_is_not_read() -> None:
    """A few kilobytes are read for each of a hundred fields that have a gigabyte."""
    size = 10_000_000
    head = b"\x12" + varint(size)
    step = len(head) + size
    reads: list[int] = []

    def sparse(offset: int, count: int) -> bytes:
        reads.append(count)
        start = offset // step * step
        content = head + bytes(count) if offset == start else bytes(count)
        return content[offset - start : offset - start + count] if offset == start else content

    events = list(Walk(sparse, 100 * step, SCHEMA, "node").events())
    assert [event.start for event in events] == [n * step + len(head) for n in range(100)]
    assert sum(reads) < 100 * 4096 + protobuf.WINDOW


def test_read_returns_bytes_in_and_out_of_the_window() -> None:
    """Bytes come from the window, or from the file where they are not in it."""
    content = field(2, LEN, bytes(range(256)) * 512) + field(2, LEN, b"abc")
    walker = Walk(reader(content), len(content), SCHEMA, "node")
    events = walker.events()
    first, second = next(events), next(events)
    assert walker.read(second.start, second.stop) == b"abc"
    assert walker.read(first.start, first.stop) == bytes(range(256)) * 512


@given(numbers=st.lists(st.integers(0, 2**64 - 1)))
def test_packed_numbers_come_back(numbers: list[int]) -> None:
    """Packed numbers come back."""
    assert list(packed_varints(b"".join(map(varint, numbers)))) == numbers


@pytest.mark.parametrize("data", [b"\x80", b"\x01\xff\xff", b"\xff" * 10 + b"\x01"])
def test_bad_packed_numbers_are_refused(data: bytes) -> None:
    """A number that is cut or too long is malformed."""
    with pytest.raises(MalformedModel):
        list(packed_varints(data))


@given(junk=st.binary(max_size=200))
def test_junk_is_refused(junk: bytes) -> None:
    """Any bytes give events within the file, or `MalformedModel`."""
    with contextlib.suppress(MalformedModel):
        assert all(0 <= event.start <= event.stop <= len(junk) for event in walk(junk))
