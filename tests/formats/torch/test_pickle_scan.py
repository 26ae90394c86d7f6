"""The tensors in pickles by torch.save and by Python, and scans of any other bytes."""

import pickle
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.formats.names import MAX_NAME
from modelfs.formats.torch import pickle_machine
from modelfs.formats.torch.pickle_scan import MAX_STACK
from modelfs.formats.torch.pickle_values import MAX_DEPTH
from modelfs.formats.torch.storage import View
from tests.support.paths import TORCH
from tests.support.torch_archives import (
    WEIGHTS,
    archive,
    called,
    content_of,
    integer,
    listed,
    mapping,
    pickled,
    recognised,
    row,
    shapes,
    storage,
    tensor,
    text,
)


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
    """A tensor that is the whole pickle has the name of its record."""
    assert shapes(tensor(0, [6]), WEIGHTS) == {"data/0": ("F32", (6,))}


def test_a_repeated_path() -> None:
    """A second tensor of the same path has another name."""
    value = mapping({"a": tensor(0, [6])})[:-1] + text("a") + tensor(1, [6]) + b"u"
    assert list(shapes(value, WEIGHTS, WEIGHTS)) == ["a", "a#2"]


def test_parameters_and_objects() -> None:
    """A call with one tensor returns that; an object has the tensors of its state."""
    parameter = called("torch._utils", "_rebuild_parameter") + b"(" + tensor(0, [6])
    parameter += b"\x88" + called("collections", "OrderedDict") + b")RtR"
    state = mapping({"weight": tensor(1, [6])})
    module = called("__main__", "Net") + b")\x81" + state + b"b"
    value = mapping({"p": parameter, "net": module})
    assert list(shapes(value, WEIGHTS, WEIGHTS)) == ["p", "net.weight"]


def test_memo() -> None:
    """Names, functions and classes are fetched from the memo, by any opcode."""
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
    """The storage's class is the dtype; unknown classes and incomplete elements are bytes."""
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
    """A storage has the shape of a tensor that is all of it, in the order of memory."""
    value = mapping({"a": tensor(0, size, stride, offset=offset)})
    assert shapes(value, WEIGHTS) == {"a": ("F32", shape)}


def test_shapes_in_memory_are_those_of_numpy_strides() -> None:
    """The elements of a permuted tensor lie in the order of its shape in memory."""
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
    """The first tensor of a storage gives its name, and its shape unless another differs."""
    tied = mapping({"a": tensor(0, [2, 3]), "b": tensor(0, [2, 3])})
    assert shapes(tied, WEIGHTS) == {"a": ("F32", (2, 3))}
    apart = mapping({"a": tensor(0, [2, 3]), "b": tensor(0, [3], offset=3)})
    assert shapes(apart, WEIGHTS) == {"a": ("F32", (6,))}


def test_foreign_byte_order() -> None:
    """Numbers in big-endian order are bytes."""
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
    """Storages in a pickle that is not understood are spans, with the names of their records."""
    assert list(content_of(archive(NOT_UNDERSTOOD[name], {0: WEIGHTS}))) == ["data/0"]


@given(st.binary(max_size=200))
def test_any_pickle(junk: bytes) -> None:
    """No pickle raises or changes the places of storages."""
    value = mapping({"a": tensor(0, [6])})
    for pickle_of in (junk, b"\x80\x02" + value + junk, junk + value):
        content = archive(pickle_of, {0: WEIGHTS})
        assert list(content_of(content).values()) == [WEIGHTS]


@pytest.mark.parametrize("window", [MAX_NAME + 2, 777, 1000])
def test_small_windows(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result does not depend on the size of the window."""
    content = (TORCH / "checkpoint.pt").read_bytes()
    expected = recognised(content)
    monkeypatch.setattr(pickle_machine, "WINDOW", window)
    assert recognised(content) == expected


def test_nothing_is_called() -> None:
    """Functions that a pickle names are not imported, let alone called."""
    harm = called("os", "_exit") + b"(" + integer(7) + b"tR"
    value = mapping({"harm": harm, "a": tensor(0, [6])})
    assert list(shapes(value, WEIGHTS)) == ["a"]


def test_pickles_by_python() -> None:
    """Other values in a pickle are skipped, in every protocol of opcodes without text."""
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
        (MAX_STACK - 100, "data/0"),
        (1_000_000, "data/0"),
    ],
)
def test_deep_containers(depth: int, name: str) -> None:
    """Tensors have names in containers up to a depth, and are spans in deeper ones."""
    value = b"]" * depth + tensor(0, [6]) + b"a" * depth
    assert list(shapes(value, WEIGHTS)) == [name]


@pytest.mark.parametrize("levels", [12, 200])
def test_bombs_in_the_memo(levels: int) -> None:
    """Lists that each hold the one before twice take no exponential time."""
    value = listed(tensor(0, [6])) + b"q\0"
    for number in range(levels):
        value += b"](h%ch%ceq%c" % (number, number, number + 1)
    assert list(shapes(value, WEIGHTS)) == ["data/0"]


def test_cycles() -> None:
    """A container that holds itself has each of its tensors once."""
    value = b"}q\0(" + text("self") + b"h\0" + text("a") + tensor(0, [6]) + b"u"
    assert list(shapes(value, WEIGHTS)) == ["a"]


def test_long_names_are_cut() -> None:
    """Paths of absurd length are cut, and stay unique."""
    key = "k" * MAX_NAME
    value = mapping({"a": mapping({key: tensor(0, [6]), key[:-1]: tensor(1, [6])})})
    names = list(shapes(value, WEIGHTS, WEIGHTS))
    assert names == [f"a.{key}"[:MAX_NAME], f"a.{key}"[:MAX_NAME] + "#2"]


def test_no_record_for_a_reference() -> None:
    """References to missing storages are ignored."""
    value = mapping({"a": tensor("x", [6]), "b": tensor(5, [6]), "c": tensor("00", [6])})
    assert list(shapes(value, WEIGHTS)) == ["data/0"]


def test_a_bare_storage() -> None:
    """A storage that no tensor views has its dtype."""
    assert shapes(listed(storage(0, "LongStorage", 3)), WEIGHTS) == {"data/0": ("I64", (3,))}


def test_no_rows_but_of_numbers() -> None:
    """With an invalid size, the shape is the number of elements."""
    value = mapping({"a": tensor(0, [6]).replace(row([6]), b"(N" + integer(6) + b"t")})
    assert shapes(value, WEIGHTS) == {"a": ("F32", (6,))}
