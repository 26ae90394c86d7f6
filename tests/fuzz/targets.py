"""The targets of fuzzing: a function of bytes each, and its first inputs.

A target raises if modelfs raised an exception that it does not document, or gave an impossible
result; otherwise it returns. `tools/run trust.fuzz` looks for bytes that make it raise, and
`tests/fuzz/test_corpus.py` tries all inputs that were ever found or kept.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fuzz import control, formats, stored

Run = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to fuzz. `words` are byte strings that the fuzzer may insert anywhere."""

    prepare: Callable[[Path], AbstractContextManager[Run]]  # given an empty folder
    seeds: Callable[[], Iterator[bytes]]
    words: tuple[str, ...] = ()


def _pure(run: Run) -> Callable[[Path], AbstractContextManager[Run]]:
    return lambda folder: contextlib.nullcontext(run)


JSON_WORDS: Final = ('"', '\\"', "\\u0000", "\\ud800", "{}", "[]", "null", "true", "NaN", "1e999")

TARGETS: Final[dict[str, Target]] = {
    "safetensors": Target(
        _pure(formats.safetensors_file),
        formats.safetensors_seeds,
        (
            *JSON_WORDS,
            '"__metadata__":{',
            '"dtype":"F32"',
            '"BF16"',
            '"F4"',
            '"F6_E2M3"',
            '"shape":[',
            '"data_offsets":[0,0]',
            '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},',
            "9223372036854775807",
        ),
    ),
    "onnx": Target(
        _pure(formats.onnx_file),
        formats.onnx_seeds,
        ("location", "offset", "length", "../", "9223372036854775807"),
    ),
    "torch": Target(
        _pure(formats.torch_file),
        formats.torch_seeds,
        (
            "archive/data/1",
            "torch._utils",
            "_rebuild_tensor_v2",
            "FloatStorage",
            "storage",
        ),
    ),
    "protobuf": Target(_pure(formats.protobuf_message), formats.protobuf_seeds),
    "records": Target(stored.open_records, stored.record_seeds, ("MSEG", "MDLPACK1")),
    "codecs": Target(_pure(stored.coded_chunk), stored.codec_seeds),
    "derivations": Target(_pure(stored.derived_chunk), stored.derivation_seeds),
    "control": Target(
        control.open_control,
        control.control_seeds,
        (
            *JSON_WORDS,
            *(f'"command":"{name}"' for name in control.COMMANDS),
            '"inode":2',
            '"dry_run":',
            '"rate":',
            '"anew":',
            "18446744073709551616",
        ),
    ),
}
