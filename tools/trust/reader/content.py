"""The content of the test's files: each version of each file can be made again, byte for byte.

A file's versions are numbered. Writers note in shared memory when they begin one, and when an fsync
or its like has made it durable; a read that starts when `durable` is 5 and ends when `begun` is 7
must give version 5, 6 or 7. Models have tensors of three kinds: the same in all versions, a little
different in each (so that they are stored as deltas), and of another shape in each.
"""

import re
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.random import default_rng
from safetensors.numpy import save

MODELS: Final = 6  # replaced by rename
CHECKPOINTS: Final = 3  # overwritten in place
BLOCKS: Final = 3  # whose blocks are written at random
FILES: Final = MODELS + CHECKPOINTS + BLOCKS
BLOCK: Final = 4096
BLOCKS_MAX: Final = 2000
STABLE: Final = 300
ROWS: Final = 256

_BLOCK_HEAD = struct.Struct("<QQQ")
Arrays = dict[str, np.ndarray[Any, Any]]


class Versions:
    """Of each file, the last version that was begun and that is durable. Any process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            np.zeros((2, FILES), np.int64).tofile(path)
        self.begun, self.durable = np.memmap(path, np.int64, "r+", shape=(2, FILES))


def name_of(file: int) -> str:
    if file < MODELS:
        return f"models/m{file}.safetensors"
    if file < MODELS + CHECKPOINTS:
        return f"models/in-place/c{file}.safetensors"
    return f"blocks{file}.bin"


def stable_name(number: int) -> str:
    return f"crowd/stable-{number:03}"


@lru_cache(64)
def _base(file: int, name: str) -> np.ndarray[Any, Any]:
    seed = [file, *name.encode()]
    return default_rng(seed).standard_normal((ROWS, 1024), np.float32)


def tensors(file: int, version: int) -> Arrays:
    """Return the tensors of a version of a model."""
    rng = default_rng([file, version])
    made: Arrays = {"version": np.array([version], np.int64)}
    for number in range(4):
        made[f"same.{number}"] = _base(file % 2, f"same.{number}")
        made[f"near.{number}"] = _base(file, f"near.{number}") + np.float32(1e-3) * (
            rng.standard_normal((ROWS, 1024), np.float32)
        )
    shape = (version % 7 + 1, 5000)
    made["shaped"] = rng.integers(0, 256, shape, np.uint8)
    return made


@lru_cache(8)
def model(file: int, version: int) -> bytes:
    return save(tensors(file, version), metadata={"version": str(version)})


def version_of(data: bytes) -> int:
    """Return the version that a model says it is."""
    match = re.search(rb'"version":"(\d+)"', data[:200])
    assert match is not None, f"no model: {data[:80]!r} in {len(data)} bytes"
    return int(match[1])


def block(file: int, number: int, version: int) -> bytes:
    head = _BLOCK_HEAD.pack(file, number, version)
    body = default_rng([file, number, version]).bytes(64)
    return (head + body).ljust(BLOCK, bytes([version % 251 + 1]))


def check_blocks(file: int, offset: int, data: bytes, low: int, high: int) -> None:
    """Fail unless every block is a version of [low, high], or a hole that truncation made."""
    assert offset % BLOCK == 0
    for at in range(0, len(data), BLOCK):
        part = data[at : at + BLOCK]
        if not any(part):
            continue
        owner, number, version = _BLOCK_HEAD.unpack_from(part)
        where = f"block {number} of file {owner} for {(offset + at) // BLOCK} of {file}"
        assert (owner, number) == (file, (offset + at) // BLOCK), where
        assert low <= version <= high, f"{where}: version {version}, not {low} to {high}"
        assert part == block(file, number, version)[: len(part)], f"{where}: torn"


def stable(number: int) -> bytes:
    return default_rng(number).bytes(number * 7)
