"""How small do codecs make the tensors of a model, and how fast are they?

    tools/run bench.codecs [FILE.safetensors ...] [--casts] [--rounds N]

Cuts each tensor into chunks of 1 MiB, as a store does, and gives each chunk its smallest standalone
form. Prints, for each dtype and form, and for zstd -3 of the same chunks: MiB of tensors, stored
bytes in per cent, and GB/s of tensors encoded and decoded (10^9 bytes per second of processor time,
in the fastest round). "numpy" is decoding without the compiled kernels. `--casts` tries F32 as BF16
and F16, too. Without files, takes those of tests/data, which are small. Exits with 1 if a chunk
does not decode to its bytes.
"""

import argparse
import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from modelfs.codecs import CODECS, GENERAL, palette, planes
from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import element_of
from modelfs.codecs.kernels import planes as planes_kernels
from modelfs.codecs.kernels import planes_numpy
from modelfs.codecs.smallest import encode_tensor
from modelfs.formats import safetensors
from tools.mounting import CHECKOUT

DATA = CHECKOUT / "tests" / "data"
CHUNK = 1 << 20
KERNELS = ((planes, "split"), (planes, "merge"), (palette, "expand"))
COLUMNS = ("MiB", "%", "encode", "decode", "numpy")

Encode = Callable[[bytes], tuple[CodecId, bytes]]
Job = tuple[CodecId, Callable[[], object]]


def main() -> None:
    options = _options()
    if planes_kernels.merge is planes_numpy.merge:
        print("the kernels are not compiled: all figures are numpy's")
    print(f"{'dtype':8}{'form':11}" + "".join(f"{name:>9}" for name in COLUMNS))
    files = options.files or sorted(DATA.rglob("*.safetensors"))
    sound = True
    for dtype, chunks in _chunks(files, casts=options.casts).items():
        tensors = partial(encode_tensor, element=element_of(dtype))
        sound &= _show(dtype, "", chunks, tensors, options.rounds)
        sound &= _show(dtype, " -3", chunks, _zstd, options.rounds)
    sys.exit(not sound)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run bench.codecs", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.safetensors")
    parser.add_argument("--casts", action="store_true", help="try F32 as BF16 and F16, too")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _chunks(files: list[Path], *, casts: bool) -> dict[str, list[bytes]]:
    by_dtype: dict[str, list[bytes]] = defaultdict(list)
    for path in files:
        content = path.read_bytes()
        layout = safetensors.scan(partial(_read_at, content), len(content))
        for span in layout.spans:
            tensors = {span.dtype: content[span.start : span.stop]}
            if casts and span.dtype == "F32":
                tensors |= _casts(tensors["F32"])
            for dtype, raw in tensors.items():
                by_dtype[dtype] += [raw[at : at + CHUNK] for at in range(0, len(raw), CHUNK)]
    return by_dtype


def _read_at(content: bytes, offset: int, size: int) -> bytes:
    return content[offset : offset + size]


def _casts(raw: bytes) -> dict[str, bytes]:
    bits = np.frombuffer(raw, "<u4").astype("<u8")
    nearest_even = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    with np.errstate(over="ignore"):
        half = np.frombuffer(raw, "<f4").astype("<f2")
    return {"BF16": nearest_even.astype("<u2").tobytes(), "F16": half.tobytes()}


def _zstd(raw: bytes) -> tuple[CodecId, bytes]:
    return CodecId.ZSTD, GENERAL[CodecId.ZSTD].encode(raw)


def _show(dtype: str, note: str, chunks: list[bytes], encode: Encode, rounds: int) -> bool:
    """Print a line for each form; return whether all chunks decode to their bytes."""
    coded = [encode(raw) for raw in chunks]
    pairs = [*zip(chunks, coded, strict=True)]
    decoding = [(n, partial(CODECS[n].decode, stored, len(raw))) for raw, (n, stored) in pairs]
    encoded = _seconds([(n, partial(encode, raw)) for raw, (n, _) in pairs], rounds)
    decoded = _seconds(decoding, rounds)
    with _numpy():
        in_numpy = _seconds(decoding, 1)
    for form in sorted(encoded):
        size = sum(len(raw) for raw, (number, _) in pairs if number is form)
        stored = sum(len(stored) for number, stored in coded if number is form)
        speeds = (size / times[form] / 1e9 for times in (encoded, decoded, in_numpy))
        columns = (size / (1 << 20), 100 * stored / size, *speeds)
        name = form.name.lower() + note
        print(f"{dtype:8}{name:11}" + "".join(f"{value:9.2f}" for value in columns), flush=True)
    return all(decode() == raw for raw, (_, decode) in zip(chunks, decoding, strict=True))


def _seconds(jobs: Sequence[Job], rounds: int) -> dict[CodecId, float]:
    fastest: dict[CodecId, float] = {}
    for _ in range(rounds):
        seconds: dict[CodecId, float] = defaultdict(float)
        for form, work in jobs:
            start = time.thread_time()
            work()
            seconds[form] += time.thread_time() - start
        fastest = {form: min(seconds[form], fastest.get(form, seconds[form])) for form in seconds}
    return fastest


@contextlib.contextmanager
def _numpy() -> Iterator[None]:
    compiled = [getattr(module, name) for module, name in KERNELS]
    try:
        for module, name in KERNELS:
            setattr(module, name, getattr(planes_numpy, name))
        yield
    finally:
        for (module, name), kernel in zip(KERNELS, compiled, strict=True):
            setattr(module, name, kernel)


if __name__ == "__main__":
    main()
