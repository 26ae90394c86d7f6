"""Memory of scans: the largest hostile files that the formats allow take a bounded amount."""

import struct
import tracemalloc
from collections.abc import Callable
from typing import Final

import pytest

from modelfs.formats.budget import MemoryBudget
from modelfs.formats.layout import Format, Layout, ReadAt
from modelfs.formats.onnx.protobuf import MAX_FIELDS
from modelfs.formats.safetensors import ENTRY_WINDOWS, MAX_HEADER_SIZE
from modelfs.formats.sniff import recognise
from tests.fuzz.formats import model_of
from tests.support.file_bytes import message, reader
from tests.support.torch_archives import archive, called, listed, mapping, pickled, tensor, text

# A smaller budget is reached sooner. The other memory of a scan does not depend on the budget. With
# the real one, no test below takes more than 50 MiB.
SMALL: Final = 3 << 20
BESIDES: Final = 4 << 20


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryBudget, "SIZE", SMALL)


class Endless:
    """A file that begins with `head` and goes on with repeats of `period`.

    It is not in memory, so all measured memory is that of the scan.
    """

    def __init__(self, head: bytes, period: bytes, size: int) -> None:
        self._head = head
        self._period = period
        self.size = size

    def read_at(self, offset: int, size: int) -> bytes:
        size = max(0, min(size, self.size - offset))
        head = self._head[offset : offset + size]
        skip = (offset + len(head) - len(self._head)) % len(self._period)
        times = (size - len(head) + skip) // len(self._period) + 1
        return head + (self._period * times)[skip : skip + size - len(head)]


def scanned(read_at: ReadAt, size: int) -> tuple[Layout, int]:
    """Return the layout of a file, and the peak memory of the scan."""
    tracemalloc.start()
    try:
        layout = recognise(read_at, size)
        return layout, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def header_of(begin: bytes, period: bytes) -> Endless:
    """Return a safetensors file with the longest allowed header."""
    head = struct.pack("<Q", MAX_HEADER_SIZE) + begin
    return Endless(head, period, MAX_HEADER_SIZE + 8)


LONG: Final[dict[str, tuple[bytes, bytes]]] = {
    "white space": (b"{", b" "),
    "nested arrays": (b'{"a":', b"["),
    "nested objects": (b'{"a":{"x":', b'{"a":'),
    "arrays": (b'{"a":{"x":[', b"[],"),
    "objects": (b'{"a":{"x":[', b"{},"),
    "name": (b'{"', b"n"),
    "name of wide characters": (b'{"', "\U0001f600".encode()),
    "escaped name": (b'{"', b"\\n"),
    "metadata": (b'{"__metadata__":{"a":"', b"x"),
    "metadata of wide characters": (b'{"__metadata__":{"a":"', "\U0001f600".encode()),
    "escaped metadata": (b'{"__metadata__":{"a":"', b"\\u00e9"),
    "zeros": (b"{", b"\0"),
}


@pytest.mark.parametrize("name", LONG)
def test_a_header_of_100_mb_is_read_through_a_window(name: str) -> None:
    """The scan of a header of any length has no more of it in memory than a name or an entry."""
    file = header_of(*LONG[name])
    layout, peak = scanned(file.read_at, file.size)
    assert layout.format is Format.PLAIN
    assert peak < 8 << 20


def tensors(count: int, name: Callable[[int], str], dims: str = "1") -> tuple[bytes, int]:
    """Return a header of so many tensors of a byte, and the size of the whole file."""
    entries = (
        f'"{name(at)}":{{"dtype":"U8","shape":[{dims}],"data_offsets":[{at},{at + 1}]}}'
        for at in range(count)
    )
    header = ("{" + ",".join(entries) + "}").encode()
    return struct.pack("<Q", len(header)) + header, 8 + len(header) + count


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("count", "name", "dims"),
    [
        pytest.param(12_000, "{}".format, "1", id="tiny tensors"),
        pytest.param(80, lambda at: f"{at}" + "\U0001f600" * 15_000, "1", id="long names"),
        pytest.param(50, "{}".format, "1," * 30_000 + "1", id="dimensions"),
    ],
)
def test_tensors_past_all_bounds_are_plain_bytes(
    count: int, name: Callable[[int], str], dims: str
) -> None:
    """Names and dimensions count against the budget, also those of few tensors."""
    content, size = tensors(count, name, dims)
    layout, peak = scanned(reader(content), size)
    assert layout.format is Format.PLAIN
    assert peak < SMALL + BESIDES


@pytest.mark.usefixtures("small")
def test_metadata_past_all_bounds() -> None:
    """Keys of metadata count against the budget, although no span needs them."""
    pairs = ",".join(f'"{at}":""' for at in range(SMALL // MemoryBudget.NAME))
    header = f'{{"__metadata__":{{{pairs}}}}}'.encode()
    content = struct.pack("<Q", len(header)) + header
    layout, peak = scanned(reader(content), len(content))
    assert layout.format is Format.PLAIN
    assert peak < SMALL + BESIDES


def test_as_many_tensors_as_the_largest_models_have() -> None:
    """A file of 100,000 tensors with usual names is scanned."""
    content, size = tensors(100_000, "model.layers.{:06}.mlp.experts.weight_scale_inv".format)
    assert len(recognise(reader(content), size).spans) == 100_000


RAW: Final = message(9, b"x")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("period", "count"),
    [
        pytest.param(message(5, RAW), 30_000, id="tiny tensors"),
        pytest.param(message(5, message(8, b"n" * 500) + RAW), 6_000, id="long names"),
        pytest.param(
            message(5, message(8, ("\U0001f600" * 125).encode()) + RAW), 6_000, id="wide names"
        ),
    ],
)
def test_models_past_all_bounds_are_plain_bytes(period: bytes, count: int) -> None:
    """An ONNX model with more tensors than the budget allows is plain bytes."""
    content = model_of(period * count)
    layout, peak = scanned(reader(content), len(content))
    assert layout.format is Format.PLAIN
    assert peak < SMALL + BESIDES


@pytest.mark.usefixtures("small")
def test_a_tensor_of_payloads_past_all_bounds() -> None:
    """An ONNX model with too many payloads in one tensor is plain bytes."""
    content = model_of(message(5, RAW * 60_000))
    layout, peak = scanned(reader(content), len(content))
    assert layout.format is Format.PLAIN
    assert peak < SMALL + BESIDES


def test_external_data_without_end() -> None:
    """Of a tensor's external data, only the entries that a span needs are kept."""
    entries = b"".join(
        message(13, message(1, b"key %d" % at), message(2, bytes(4000))) for at in range(2_000)
    )
    content = model_of(message(5, entries, RAW))
    layout, peak = scanned(reader(content), len(content))
    assert len(layout.spans) == 1
    assert peak < 1 << 20


@pytest.mark.usefixtures("small")
def test_locations_past_all_bounds() -> None:
    """Paths to external data count against the budget."""
    location = message(13, message(1, b"location"), message(2, b"l" * 4000))
    external = message(5, b"\x08\x01\x10\x01\x70\x01" + location)
    content = model_of(external * 1_000)
    layout, peak = scanned(reader(content), len(content))
    assert layout.format is Format.PLAIN
    assert peak < SMALL + BESIDES


def test_fields_without_end() -> None:
    """Other fields of a model take no memory."""
    file = Endless(b"\x08\x08", b"\x12\x00", 1 << 17)
    assert file.size < MAX_FIELDS
    _, peak = scanned(file.read_at, file.size)
    assert peak < 1 << 20


def archive_of(count: int, name: Callable[[int], str], size: tuple[int, ...] = (1,)) -> bytes:
    """Return an archive of `count` tensors of a byte each, which share texts as torch's do."""
    kind = "ByteStorage"
    state: dict[str | int, bytes] = {name(at): tensor(at, size, kind=kind) for at in range(count)}
    shared = [text("storage"), text("cpu"), called("torch", kind)]
    value = mapping(state)
    for number, shared_text in enumerate(shared):
        value = value.replace(shared_text, b"h%c" % number)
    begin = b"".join(shared_text + b"\x940" for shared_text in shared)
    return archive(pickled(begin + value), dict.fromkeys(range(count), b"x"))


@pytest.mark.usefixtures("small")
def test_as_many_storages_as_the_largest_models_have() -> None:
    """A sixteenth of the budget is enough for a sixteenth of 100,000 storages."""
    content = archive_of(6250, "model.layers.{:06}.mlp.experts.weight_scale_inv".format)
    layout, peak = scanned(reader(content), len(content))
    assert len(layout.spans) == 6250
    assert layout.spans[-1].name == "model.layers.006249.mlp.experts.weight_scale_inv"
    assert peak < SMALL + BESIDES


@pytest.mark.usefixtures("small")
def test_a_pickle_past_all_bounds_costs_names() -> None:
    """Storages are spans although the memory is too small for their names and shapes."""
    content = archive_of(5_000, lambda at: f"{at}" + "\U0001f600" * 100)
    layout, peak = scanned(reader(content), len(content))
    assert [span.name for span in layout.spans] == [f"data/{at}" for at in range(5_000)]
    assert peak < SMALL + BESIDES


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            archive(pickled(b"N"), dict.fromkeys(range(12_000), b"x")), id="tiny storages"
        ),
        pytest.param(archive_of(1_500, "{}".format, (1,) * 60), id="dimensions"),
    ],
)
def test_storages_past_all_bounds_are_plain_bytes(content: bytes) -> None:
    """An archive with more storages or dimensions than the budget allows is plain bytes."""
    layout, peak = scanned(reader(content), len(content))
    assert layout.format is Format.PLAIN
    assert peak < SMALL + BESIDES


TENSOR: Final = tensor(0, [1])
BOMBS: Final[dict[str, bytes]] = {
    "marks": b"(",
    "nothing": b"N",
    "containers": b"}",
    "containers in containers": b"]",
    "tuples": b")",
    "tuples in tuples": b"\x85",
    "wide tuples": b"NNN\x87a]",
    "the memo": b"\x94",
    "texts in the memo": text("x" * 500) + b"\x940",
    "wide texts": text("\U0001f600" * 125),
    "long texts": text("x" * 1_000_000),
    "long bytes": b"B" + struct.pack("<I", 1_000_000) + bytes(1_000_000),
    "long integers": b"\x8b" + struct.pack("<I", 1_000_000) + bytes(1_000_000),
    "names": called("torch", "x" * 500),
    "tensors": TENSOR + b"a",
    "tensors ever deeper": listed(TENSOR),
    "keys": text("x" * 500) + TENSOR + b"s",
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", BOMBS)
def test_pickles_without_end(name: str) -> None:
    """The storage of a pickle that repeats any opcodes is a span, and memory is bounded."""
    begin = b"\x80\x02" + (b"}" if name == "keys" else b"]")
    period = BOMBS[name]
    content = archive(begin + b"N" + period * (1_500_000 // len(period)), {0: b"1234"})
    layout, peak = scanned(reader(content), len(content))
    assert [span.name for span in layout.spans] == ["data/0"]
    assert peak < SMALL + BESIDES


@pytest.mark.parametrize("length", [1 << 31, 1 << 62, (1 << 63) - 1, (1 << 64) - 1])
@pytest.mark.parametrize("nested", [False, True])
def test_lengths_past_all_bounds(length: int, nested: bool) -> None:
    """An absurd length allocates no memory."""
    claim = length.to_bytes(8, "little")
    varint = bytes(length >> shift & 0x7F | 0x80 for shift in range(0, 63, 7)) + b"\x01"
    field = b"\x4a" + varint
    onnx = model_of(message(5, field)) if nested else b"\x08\x08\x3a" + varint + bytes(9)
    for content in (claim + b"{}" + bytes(9), onnx):
        layout, peak = scanned(reader(content), len(content))
        assert layout.format is Format.PLAIN
        assert peak < 1 << 20


def test_what_is_past_a_window_is_found() -> None:
    """White space, names and entries up to their bounds are read across the ends of windows."""
    gap = " " * 300_000
    long = "n" * (ENTRY_WINDOWS[-1] - 2)
    note = '\\n\\u00e9"'.rjust(700_000, "x")
    entry = '{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    header = (
        f'{gap}{{{gap}"__metadata__"{gap}:{{{gap}"k":{gap}"{note}{gap}}}{gap},'
        f'{gap}"a"{gap}:{gap}{entry % (0, 1)}{gap},"{long}":{entry % (1, 2)}{gap}}}{gap}'
    ).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(2)
    for shift in range(6):
        spaces = b" " * shift
        moved = struct.pack("<Q", len(header) + shift) + spaces + header + bytes(2)
        layout = recognise(reader(moved), len(moved))
        assert [span.name for span in layout.spans] == ["a", long]
        assert layout.spans[-1].stop == len(content) + shift
