"""The tensors of archives by torch.save."""

import io
import json
import pickle
import random
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.formats.layout import PLAIN, Format, Layout, ReadAt, TensorSpan
from modelfs.formats.names import MAX_NAME
from modelfs.formats.sniff import recognise
from modelfs.formats.torch import pickle_scan as torch_pickle
from modelfs.formats.torch.pickle_scan import MAX_DEPTH
from modelfs.formats.torch.storage import View
from tests.support.paths import FORMATS_GOLDEN, MODELS, TORCH
from tests.support.torch_archives import (
    archive,
    called,
    integer,
    listed,
    mapping,
    pickled,
    row,
    storage,
    tensor,
    text,
)

REAL = sorted(TORCH.glob("*.pt"))
WEIGHTS = bytes(range(24))


def reader(content: bytes) -> ReadAt:
    return lambda offset, size: content[offset : offset + size]


def recognised(content: bytes) -> Layout:
    return recognise(reader(content), len(content))


def spans_of(content: bytes) -> dict[str, TensorSpan]:
    layout = recognised(content)
    assert layout.format is Format.TORCH
    return {span.name: span for span in layout.spans}


def content_of(content: bytes) -> dict[str, bytes]:
    return {name: content[span.start : span.stop] for name, span in spans_of(content).items()}


def shapes(value: bytes, *storages: bytes) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return name, dtype and shape of what an archive of that value has."""
    found = spans_of(archive(pickled(value), dict(enumerate(storages))))
    return {name: (span.dtype, span.shape) for name, span in found.items()}


# -- what torch wrote


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_archives_have_their_pinned_layout(path: Path) -> None:
    """The layout is pinned. A missing file means: new archive, add its golden layout."""
    layout = recognised(path.read_bytes())
    found = {
        "format": layout.format.name,
        "spans": [[s.name, s.dtype, list(s.shape), s.start, s.stop] for s in layout.spans],
    }
    assert found == json.loads((FORMATS_GOLDEN / f"torch-{path.stem}.json").read_text())


def test_equal_tensors_of_both_formats_are_equal_bytes() -> None:
    """A state dict and the safetensors file of the same model have the same spans."""
    saved, weights = ((MODELS / name).read_bytes() for name in ("base.pt", "base.safetensors"))
    expected = recognised(weights)
    assert content_of(saved) == {s.name: weights[s.start : s.stop] for s in expected.spans}
    assert {(s.name, s.dtype, s.shape) for s in spans_of(saved).values()} == {
        (s.name, s.dtype, s.shape) for s in expected.spans
    }


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_a_growing_file_is_unknown_to_the_end(path: Path) -> None:
    """What begins like an archive may be one at any size, and is none before its last byte."""
    content = path.read_bytes()
    zipped = zipfile.is_zipfile(path)
    for size in range(9, len(content)):
        cut = content[:size]
        assert recognise(reader(cut), size, partial=True) is (None if zipped else PLAIN)
        assert recognised(cut) == PLAIN


# -- archives


def test_records_are_spans() -> None:
    """Each storage is a span of its bytes, wherever it lies."""
    value = mapping({"a": tensor(0, [3]), "b": tensor(1, [2, 1])})
    for aligned in (1, 64, 4096):
        content = archive(pickled(value), {0: bytes(12), 1: b"12345678"}, aligned=aligned)
        assert content_of(content) == {"a": bytes(12), "b": b"12345678"}
        assert all(span.start % aligned == 0 for span in spans_of(content).values())


@pytest.mark.parametrize("missing", ["data.pkl", "version"])
def test_other_archives_are_plain(missing: str) -> None:
    """A zip archive without what torch puts into each is plain bytes."""
    content = archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS})
    assert recognised(content).format is Format.TORCH
    assert recognised(content.replace(missing.encode(), b"x" * len(missing))) == PLAIN


def test_other_folders_and_records_are_no_spans() -> None:
    """Spans are what lies under `data` in the folder of the first record."""
    others = {"data/x": b"1", "data/01": b"2", ".data/serialization_id": b"3", "code/0": b"4"}
    content = archive(pickled(tensor(0, [6])), {0: WEIGHTS}, others)
    content = rezipped(content, add={"other/data/1": b"5", "archive/data/1/2": b"6"})
    assert content_of(content) == {"data/0": WEIGHTS}


def rezipped(content: bytes, add: dict[str, bytes], comment: bytes = b"") -> bytes:
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as file:
        file.comment = comment
        for name, data in add.items():
            file.writestr(name, data)
    return buffer.getvalue()


def test_a_comment_at_the_end() -> None:
    """An archive may end in a comment, also in one that has the mark of an end in it."""
    content = archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS})
    for comment in (b"note", b"PK\5\6" * 30, b"x" * 65535):
        assert content_of(rezipped(content, {}, comment)) == {"a": WEIGHTS}
    assert recognised(content + b"tail") == PLAIN


def test_garbage_in_front() -> None:
    """Bytes in front of an archive make it plain, though zip readers allow for them."""
    content = archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS})
    for garbage in (b"\0", b"PK\3\4", b"#!/bin/sh\n", content):
        assert recognised(garbage + content) == PLAIN


def test_compressed_records_are_no_spans() -> None:
    """A storage that is compressed is part of what lies between the others."""
    buffer = io.BytesIO(archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS}))
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/1", bytes(1000))
    assert content_of(buffer.getvalue()) == {"a": WEIGHTS}


def test_a_compressed_pickle_is_plain() -> None:
    """Without its pickle, an archive is none of torch."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickled(mapping({})))
        file.writestr("archive/version", b"3\n")
    assert recognised(buffer.getvalue()) == PLAIN


@pytest.mark.parametrize("name", ["data/0", "data.pkl"])
def test_repeated_names(name: str) -> None:
    """Which of two records is meant depends on the reader: such an archive is plain."""
    content = archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS})
    with pytest.warns(UserWarning, match="Duplicate"):
        assert recognised(rezipped(content, {f"archive/{name}": WEIGHTS})) == PLAIN


CENTRAL = b"PK\1\2"
LOCAL = b"PK\3\4"


def records_of(content: bytes) -> list[tuple[int, int]]:
    """Return where each entry's record in the directory, and its local header, begin."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        at, found = file.start_dir, []
        for info in file.infolist():
            found.append((at, info.header_offset))
            at += 46 + len(info.filename) + len(info.extra) + len(info.comment)
    return found


def changed(content: bytes, offset: int, layout: str, value: int) -> bytes:
    data = bytearray(content)
    struct.pack_into(layout, data, offset, value)
    return bytes(data)


@pytest.mark.parametrize("value", [0, 1, 23, 25, 1 << 20, 0xFFFFFFFE, 0xFFFFFFFF])
@pytest.mark.parametrize("field", [16 + 4, 16 + 8, 42], ids=["packed", "size", "offset"])
def test_a_directory_that_lies(field: int, value: int) -> None:
    """Sizes and places of which one is wrong make an archive plain."""
    content = archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS})
    central, _ = records_of(content)[2]
    assert recognised(changed(content, central + field, "<I", value)) == PLAIN


@pytest.mark.parametrize("field", range(4, 22, 2))
@pytest.mark.parametrize("value", [1, 0xFFFF])
def test_an_end_that_lies(field: int, value: int) -> None:
    """So do wrong numbers in the end of the directory."""
    content = archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS})
    assert recognised(changed(content, len(content) - 22 + field, "<H", value)) == PLAIN


def test_overlapping_records() -> None:
    """An entry that lies within another's bytes makes an archive plain."""
    pickle_of = pickled(mapping({"a": tensor(0, [6])}))
    _, inner = records_of(archive(pickle_of, {0: b"", 1: WEIGHTS}, aligned=1))[3]
    outer = archive(pickle_of, {0: b"", 1: WEIGHTS}, aligned=1)[inner:][: 30 + 14 + 4 + 24]
    content = archive(pickle_of, {0: outer, 1: WEIGHTS}, aligned=1)
    assert recognised(content).format is Format.TORCH
    at, _ = records_of(content)[3]
    assert recognised(changed(content, at + 42, "<I", content.index(outer))) == PLAIN


def wide(content: bytes) -> bytes:
    """Return an archive in which all numbers are in zip64 fields."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        infos, start = file.infolist(), file.start_dir
    directory = b""
    for info in infos:
        numbers = (info.file_size, info.compress_size, info.header_offset)
        extra = struct.pack("<2sHHH3Q", b"FB", 0, 1, 24, *numbers)
        name = info.filename.encode()
        fixed = (45, 45, info.flag_bits, 0, 0, 0, info.CRC, 0xFFFFFFFF, 0xFFFFFFFF)
        tail = (len(name), len(extra), 0, 0, 0, 0, 0xFFFFFFFF)
        directory += struct.pack("<4s6H3I5H2I", CENTRAL, *fixed, *tail) + name + extra
    count, stop = len(infos), start + len(directory)
    sizes = (44, 45, 45, 0, 0, count, count, len(directory), start)
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", *sizes)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, stop, 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return content[:start] + directory + end64 + locator + end


def test_zip64() -> None:
    """Numbers of 64 bits are read where the others have no room."""
    content = archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS})
    assert spans_of(wide(content)) == spans_of(content)
    big = wide(content)
    for size in range(len(big)):
        assert recognised(big[:size]) == PLAIN
    stop = len(big) - 22 - 20 - 56
    for offset in range(stop, len(big)):
        for value in (0x7F, 0xFE):
            assert recognised(changed(big, offset, "<B", big[offset] ^ value)).format in Format


def test_huge_counts() -> None:
    """That so many entries are not there is seen at the first that is missing."""
    content = wide(archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS}))
    at = len(content) - 22 - 20 - 56
    for count in (1 << 32, 1 << 63, (1 << 64) - 1):
        lying = changed(changed(content, at + 24, "<Q", count), at + 32, "<Q", count)
        assert recognised(lying) == PLAIN


@given(st.data())
def test_any_damage(data: st.DataObject) -> None:
    """Whatever is changed, nothing raises, and spans lie in the file in order and apart."""
    content = bytearray(archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS}, aligned=1))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    at = 0
    for span in recognised(bytes(content)).spans:
        assert at <= span.start <= span.stop <= len(content)
        at = span.stop


# -- what a pickle says


def test_names_are_paths() -> None:
    """Keys of dicts and places in lists and tuples lead to a tensor."""
    exp_avg = mapping({"exp_avg": tensor(1, [6])})
    value = mapping(
        {"w": tensor(0, [2, 3]), "state": mapping({0: exp_avg}), "l": listed(b"N", tensor(2, [6]))}
    )
    assert shapes(value, WEIGHTS, WEIGHTS, WEIGHTS) == {
        "w": ("F32", (2, 3)),
        "state.0.exp_avg": ("F32", (6,)),
        "l.1": ("F32", (6,)),
    }


def test_a_tensor_alone_has_its_records_name() -> None:
    """No path leads to what is the whole of a pickle."""
    assert shapes(tensor(0, [6]), WEIGHTS) == {"data/0": ("F32", (6,))}


def test_a_repeated_path() -> None:
    """A second tensor of the same path is told apart."""
    value = mapping({"a": tensor(0, [6])})[:-1] + text("a") + tensor(1, [6]) + b"u"
    assert list(shapes(value, WEIGHTS, WEIGHTS)) == ["a", "a#2"]


def test_parameters_and_objects() -> None:
    """A function's only tensor is what it returns; an object's are those of its state."""
    parameter = called("torch._utils", "_rebuild_parameter") + b"(" + tensor(0, [6])
    parameter += b"\x88" + called("collections", "OrderedDict") + b")RtR"
    state = mapping({"weight": tensor(1, [6])})
    module = called("__main__", "Net") + b")\x81" + state + b"b"
    value = mapping({"p": parameter, "net": module})
    assert list(shapes(value, WEIGHTS, WEIGHTS)) == ["p", "net.weight"]


def test_memo() -> None:
    """Names, functions and classes are fetched from the memo, whatever the opcode."""
    for put, get in ((b"q\0", b"h\0"), (b"\x94", b"j\0\0\0\0"), (b"r\0\0\0\0", b"h\0")):
        first = mapping({"exp_avg": tensor(0, [6])})
        second = first.replace(text("exp_avg"), get).replace(text("0"), text("1"))
        value = listed(first.replace(text("exp_avg"), text("exp_avg") + put), second)
        assert list(shapes(value, WEIGHTS, WEIGHTS)) == ["0.exp_avg", "1.exp_avg"]


DTYPES = {
    "DoubleStorage": ("F64", 3),
    "HalfStorage": ("F16", 12),
    "BFloat16Storage": ("BF16", 12),
    "LongStorage": ("I64", 3),
    "BoolStorage": ("BOOL", 24),
    "ComplexDoubleStorage": ("C128", 0),
    "NoSuchStorage": ("U8", 24),
}


@pytest.mark.parametrize("kind", DTYPES)
def test_dtypes(kind: str) -> None:
    """The storage's class is the dtype; what is not known, or no whole number of it, are bytes."""
    dtype, count = DTYPES[kind]
    expected = (dtype, (count,)) if count else ("U8", (24,))
    value = mapping({"a": tensor(0, [count or 1], kind=kind)})
    assert shapes(value, WEIGHTS) == {"a": expected}


@pytest.mark.parametrize(
    ("offset", "size", "stride", "shape"),
    [
        (0, (2, 3), (3, 1), (2, 3)),
        (0, (2, 3), (1, 2), (3, 2)),
        (0, (1, 2, 1, 3), (9, 3, 7, 1), (1, 2, 1, 3)),
        (0, (3, 1, 2), (1, 5, 3), (1, 2, 3)),
        (0, (2, 3), (6, 1), (6,)),
        (0, (6, 9), (1, 0), (6,)),
        (0, (5,), (1,), (6,)),
        (1, (2, 3), (3, 1), (6,)),
        (1, (5,), (1,), (6,)),
        (0, (2, -3), (3, 1), (6,)),
        (0, (2, 3), (1,), (6,)),
        (0, (1,) * 70, (1,) * 70, (6,)),
        (0, (1 << 40, 1 << 40), (1 << 40, 1), (6,)),
    ],
)
def test_views(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    """A shape is that of the whole storage, in the order of memory, if a tensor is all of it."""
    value = mapping({"a": tensor(0, size, stride, offset=offset)})
    assert shapes(value, WEIGHTS) == {"a": ("F32", shape)}


def test_shapes_in_memory_are_those_of_numpy_strides() -> None:
    """The elements of a permuted tensor lie in the order that its shape in memory says."""
    generator = random.Random(0)
    for _ in range(200):
        whole = [generator.randint(2, 5) for _ in range(generator.randint(1, 4))]
        strides = [1]
        for count in reversed(whole[1:]):
            strides.insert(0, strides[0] * count)
        order = generator.sample(range(len(whole)), len(whole))
        view = View(0, tuple(whole[i] for i in order), tuple(strides[i] for i in order))
        assert view.shape_in_memory() == tuple(whole)


def test_several_views_of_one_storage() -> None:
    """The first gives the name, and the shape if no other has another."""
    tied = mapping({"a": tensor(0, [2, 3]), "b": tensor(0, [2, 3])})
    assert shapes(tied, WEIGHTS) == {"a": ("F32", (2, 3))}
    apart = mapping({"a": tensor(0, [2, 3]), "b": tensor(0, [3], offset=3)})
    assert shapes(apart, WEIGHTS) == {"a": ("F32", (6,))}


def test_foreign_byte_order() -> None:
    """Numbers in the order of other machines are bytes."""
    content = archive(pickled(tensor(0, [6])), {0: WEIGHTS}, {"byteorder": b"big"})
    assert [(s.name, s.dtype) for s in recognised(content).spans] == [("data/0", "U8")]


NOT_UNDERSTOOD = {
    "nothing": b"",
    "no stop": pickled(mapping({"a": tensor(0, [6])}))[:-1],
    "text opcodes": pickled(b"I1\n0" + mapping({"a": tensor(0, [6])})),
    "no such opcode": b"\xff",
    "empty stack": b"\x80\x02R.",
    "no mark": b"\x80\x02u.",
    "memo with gaps": pickled(b"Nq\x05"),
    "nothing in the memo": pickled(b"h\x05"),
    "a negative length": pickled(b"T\xff\xff\xff\xff"),
    "an endless name": b"c" + b"x" * 100_000,
    "a reference of its own": pickled(mapping({"a": tensor(0, [6])}).replace(b"Q", b"2")),
    "numbers": pickled(b"\x8b\xff\xff\xff\x7f"),
    "a deep tuple": pickled(b"N" + b"\x85" * 1000),
    "a tensor of nothing": pickled(called("torch._utils", "_rebuild_tensor_v2") + b")R"),
    "a storage that is none": pickled(b"NQ"),
    "an unknown record": pickled(mapping({"a": tensor(7, [6])})),
}


@pytest.mark.parametrize("name", NOT_UNDERSTOOD)
def test_pickles_that_are_not_understood(name: str) -> None:
    """Storages are spans all the same, by their records' names, of bytes or what is known."""
    assert list(content_of(archive(NOT_UNDERSTOOD[name], {0: WEIGHTS}))) == ["data/0"]


@given(st.binary(max_size=200))
def test_any_pickle(junk: bytes) -> None:
    """No pickle raises, nor changes where the storages are."""
    value = mapping({"a": tensor(0, [6])})
    for pickle_of in (junk, b"\x80\x02" + value + junk, junk + value):
        content = archive(pickle_of, {0: WEIGHTS})
        assert list(content_of(content).values()) == [WEIGHTS]


@pytest.mark.parametrize("window", [MAX_NAME + 2, 777, 1000])
def test_small_windows(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes no difference how much of a pickle is read at a time."""
    content = (TORCH / "checkpoint.pt").read_bytes()
    expected = recognised(content)
    monkeypatch.setattr(torch_pickle, "WINDOW", window)
    assert recognised(content) == expected


def test_nothing_is_called() -> None:
    """Functions that a pickle names are not imported, let alone called."""
    harm = called("os", "_exit") + b"(" + integer(7) + b"tR"
    value = mapping({"harm": harm, "a": tensor(0, [6])})
    assert list(shapes(value, WEIGHTS)) == ["a"]


def test_pickles_by_python() -> None:
    """Whatever else is in a pickle is passed over, in every protocol of opcodes without text."""
    others: list[object] = [
        *(None, True, 1.5, b"b" * 70_000, bytearray(9), "\u00e9" * 70_000, 1j, range(9), Path("x")),
        *(0, -1, 1 << 20, -(1 << 40), 1 << 3000, [], {9: [], 1.5: {}}, {1, 2}, frozenset({3})),
        *((1, (2, (3, (4, 5, 6, 7)))), [*range(2001)], dict.fromkeys(range(2001))),
    ]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        dumped = pickle.dumps(others, protocol)[:-1]
        content = archive(dumped + b"0" + pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS})
        assert content_of(content) == {"a": WEIGHTS}


@pytest.mark.parametrize(
    ("depth", "name"),
    [
        (MAX_DEPTH + 1, "0" + ".0" * MAX_DEPTH),
        (MAX_DEPTH + 2, "data/0"),
        (torch_pickle.MAX_STACK - 100, "data/0"),
        (1_000_000, "data/0"),
    ],
)
def test_deep_containers(depth: int, name: str) -> None:
    """Tensors have names in containers up to a depth, and are spans in deeper ones."""
    value = b"]" * depth + tensor(0, [6]) + b"a" * depth
    assert list(shapes(value, WEIGHTS)) == [name]


@pytest.mark.parametrize("levels", [12, 200])
def test_bombs_in_the_memo(levels: int) -> None:
    """Lists that hold the one before twice are not walked through again and again."""
    value = listed(tensor(0, [6])) + b"q\0"
    for number in range(levels):
        value += b"](h%ch%ceq%c" % (number, number, number + 1)
    assert list(shapes(value, WEIGHTS)) == ["data/0"]


def test_cycles() -> None:
    """A container that holds itself has no more tensors for that."""
    value = b"}q\0(" + text("self") + b"h\0" + text("a") + tensor(0, [6]) + b"u"
    assert list(shapes(value, WEIGHTS)) == ["a"]


def test_long_names_are_cut() -> None:
    """Paths of absurd length are cut, and told apart."""
    key = "k" * MAX_NAME
    value = mapping({"a": mapping({key: tensor(0, [6]), key[:-1]: tensor(1, [6])})})
    names = list(shapes(value, WEIGHTS, WEIGHTS))
    assert names == [f"a.{key}"[:MAX_NAME], f"a.{key}"[:MAX_NAME] + "#2"]


def test_no_record_for_a_reference() -> None:
    """References to storages that are not there are not followed."""
    value = mapping({"a": tensor("x", [6]), "b": tensor(5, [6]), "c": tensor("00", [6])})
    assert list(shapes(value, WEIGHTS)) == ["data/0"]


def test_a_bare_storage() -> None:
    """A storage that no tensor views has its dtype."""
    assert shapes(listed(storage(0, "LongStorage", 3)), WEIGHTS) == {"data/0": ("I64", (3,))}


def test_no_rows_but_of_numbers() -> None:
    """A size that is none leaves the number of elements."""
    value = mapping({"a": tensor(0, [6]).replace(row([6]), b"(N" + integer(6) + b"t")})
    assert shapes(value, WEIGHTS) == {"a": ("F32", (6,))}
