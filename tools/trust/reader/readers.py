"""The processes that read the store meanwhile, and compare."""

import multiprocessing
import os
import pickle
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Final, NoReturn

import numpy as np

import modelfs
from tools.trust.reader.content import (
    BLOCK,
    BLOCKS_MAX,
    CHECKPOINTS,
    FILES,
    MODELS,
    STABLE,
    Versions,
    check_blocks,
    model,
    name_of,
    stable,
    stable_name,
    tensors,
    version_of,
)

THREADS: Final = 3
# Another file may replace the one that was looked up, before it is read.
LOOKUPS_MAX: Final = 10


@dataclass(slots=True)
class Counts:
    """The reads of one process."""

    reads: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    slowest: float = 0.0  # seconds of one check

    def add(self, other: "Counts") -> None:
        self.reads += other.reads
        self.bytes += other.bytes
        self.slowest = max(self.slowest, other.slowest)


class Checks:
    """One reader, and all of its functions."""

    def __init__(self, reader: modelfs.Reader, versions: Versions, seed: int) -> None:
        self._reader = reader
        self._versions = versions
        self._rng = random.Random(seed)
        # Kept, to be used when much has changed.
        self._files: dict[int, modelfs.File] = {}
        self.counts = Counts()

    def run(self) -> None:
        """Do one of them."""
        name = self._rng.choice((*WEIGHTED,))
        begun = time.monotonic()
        getattr(self, f"_{name}")()
        self.counts.reads[name] += 1
        self.counts.slowest = max(self.counts.slowest, time.monotonic() - begun)

    def _whole(self) -> None:
        file = self._rng.randrange(MODELS)
        low = self._versions.durable[file]
        data = self._pread_at(name_of(file))
        high = self._versions.begun[file]
        self._check_model(file, data, low, high)

    def _pread_at(self, path: str) -> bytes:
        """Return the bytes of the file that a path names, which another may replace at any time."""
        for _ in range(LOOKUPS_MAX):
            file = self._reader[path]
            with suppress(modelfs.NotFound):
                return file.pread()
            self.counts.reads["replaced"] += 1
        raise AssertionError(f"{path}: removed after each of {LOOKUPS_MAX} lookups")

    def _check_model(self, file: int, data: bytes, low: int, high: int) -> None:
        self.counts.bytes += len(data)
        version = version_of(data)
        assert low <= version <= high, f"{name_of(file)}: {version}, not {low} to {high}"
        assert data == model(file, version), f"{name_of(file)}: not version {version}"

    def _part(self) -> None:
        """A part of a model, from a file that was looked up some time ago."""
        number = self._rng.randrange(MODELS)
        file = self._file(number)
        try:
            version = version_of(file.pread(size=200))
            expected = model(number, version)
            offset = self._rng.randrange(len(expected) + 1000)
            size = self._rng.choice((1, 10, 5000, 1 << 20, 1 << 24))
            data = file.pread(offset=offset, size=size)
        except modelfs.NotFound:
            del self._files[number]  # replaced and gone
            self.counts.reads["gone"] += 1
            return
        self.counts.bytes += len(data)
        assert data == expected[offset : offset + size], f"{file.path}: {size} bytes at {offset}"

    def _checkpoint(self) -> None:
        """Bytes of a file that is overwritten in place: the first part of a version."""
        number = MODELS + self._rng.randrange(CHECKPOINTS)
        low = self._versions.durable[number]
        data = self._file(number).pread()
        high = self._versions.begun[number]
        self.counts.bytes += len(data)
        self.counts.reads["incomplete"] += len(data) < 1000
        found = range(low, high + 1) if len(data) < 200 else [version_of(data)]
        assert any(data == model(number, version)[: len(data)] for version in found), name_of(
            number
        )
        assert not data or low <= max(found) <= high

    def _tensors(self) -> None:
        """Tensors of a file that may be overwritten in place between two of them."""
        number = self._rng.randrange(MODELS + CHECKPOINTS)
        file = self._file(number)
        buffer = bytearray()
        try:
            low = self._versions.durable[number]
            found = list(file.tensors.values())
            self.counts.reads["without tensors"] += not found
            for tensor in self._rng.sample(found, min(3, len(found))):
                if self._rng.random() < 0.3:
                    time.sleep(self._rng.random() / 5)
                first = low if number >= MODELS else 1
                if self._rng.random() < 0.5:
                    array = tensor.numpy()
                else:
                    buffer = bytearray(tensor.nbytes)
                    tensor.read_into(buffer)
                    array = np.frombuffer(buffer, tensor.numpy().dtype).reshape(tensor.shape)
                high = self._versions.begun[number]
                self.counts.bytes += array.nbytes
                assert any(
                    np.array_equal(array, tensors(number, version)[tensor.name])
                    for version in range(high, first - 1, -1)
                ), f"{file.path}: {tensor.name} of no version from {first} to {high}"
        except modelfs.NotFound:
            self._files.pop(number, None)
            self.counts.reads["tensor gone"] += 1

    def _blocks(self) -> None:
        number = self._rng.randrange(MODELS + CHECKPOINTS, FILES)
        file = self._file(number)
        offset = BLOCK * self._rng.randrange(BLOCKS_MAX)
        low = self._versions.durable[number]
        data = file.pread(offset=offset, size=BLOCK * self._rng.randrange(BLOCKS_MAX))
        high = self._versions.begun[number]
        self.counts.bytes += len(data)
        check_blocks(number, offset, data, low, high)

    def _names(self) -> None:
        names = [file.path for file in self._reader.files("crowd/")]
        assert names == sorted(set(names)), "names twice, or out of order"
        missing = {stable_name(number) for number in range(STABLE)} - set(names)
        assert not missing, f"not listed: {sorted(missing)[:5]}"

    def _stable(self) -> None:
        number = self._rng.randrange(STABLE)
        assert self._reader[stable_name(number)].pread() == stable(number)
        assert f"{stable_name(number)}/x" not in self._reader

    def _links(self) -> None:
        low = self._versions.durable[0]
        data = self._pread_at("links/m0")
        self._check_model(0, data, low, self._versions.begun[0])
        for file in self._reader.files("links/hard"):
            try:
                data = file.pread()
            except modelfs.NotFound:
                continue
            assert any(data == model(number, version_of(data)) for number in range(MODELS)), (
                file.path
            )

    def _reports(self) -> None:
        number = self._rng.randrange(MODELS)
        try:
            report = self._reader[name_of(number)].report()
        except modelfs.NotFound:
            return
        assert sum(form.bytes for form in report.forms) == report.size
        assert self._reader.statistics().files >= STABLE

    def _pickled(self) -> None:
        file = pickle.loads(pickle.dumps(self._reader[stable_name(7)]))  # noqa: S301 - our own
        assert file.pread() == stable(7)
        with modelfs.open(self._reader.folder) as again:
            assert again[stable_name(8)].pread() == stable(8)

    def _file(self, number: int) -> modelfs.File:
        if number not in self._files or self._rng.random() < 0.05:
            self._files[number] = self._reader[name_of(number)]
        return self._files[number]


WEIGHTED: Final = (
    *("whole", "part", "checkpoint", "tensors", "blocks") * 3,
    *("names", "stable", "links", "reports", "pickled"),
)


def read_forever(kind: str, store: Path, versions: Path, stop: float, seed: int) -> Counts:
    """Read in some way until `stop` (of time.time); return the reads. Raises at a fault."""
    return KINDS[kind](store, Versions(versions), stop, seed)


def _with_threads(store: Path, versions: Versions, stop: float, seed: int) -> Counts:
    """Several threads share a reader; one more forks, and its children read, too."""
    total = Counts()
    with modelfs.open(store) as reader, ThreadPoolExecutor(THREADS) as threads:
        checks = [Checks(reader, versions, 100 * seed + number) for number in range(THREADS)]
        running = [threads.submit(_run_until, check, stop) for check in checks]
        while time.time() < stop and not any(each.done() for each in running):
            _fork(reader, versions, seed)
            total.reads["forks"] += 1
            time.sleep(0.05)
        for check, each in zip(checks, running, strict=True):
            each.result()
            total.add(check.counts)
    return total


def _run_until(checks: Checks, stop: float) -> None:
    while time.time() < stop:
        checks.run()


def _fork(reader: modelfs.Reader, versions: Versions, seed: int) -> None:
    told, telling = os.pipe()
    child = os.fork()
    if child == 0:
        _end_with_checks(Checks(reader, versions, os.getpid() + seed), telling)
    os.close(telling)
    with open(told, errors="replace") as fault:
        text = fault.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"a child ended with {status}: {text}"


def _end_with_checks(checks: Checks, telling: int) -> NoReturn:
    """The life of a child: some checks; the trace of a fault goes to the parent."""
    code = 1
    try:
        for _ in range(5):
            checks.run()
        code = 0
    except BaseException:
        os.write(telling, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _in_pools(store: Path, versions: Versions, stop: float, seed: int) -> Counts:
    """Processes are made in every way, and get a reader that was pickled."""
    total = Counts()
    with modelfs.open(store) as reader:
        while time.time() < stop:
            for method in ("fork", "forkserver", "spawn"):
                context = multiprocessing.get_context(method)
                with context.Pool(2) as pool:
                    _use(pool, reader, versions, total)
                total.reads[f"pools by {method}"] += 1
    return total


def _use(pool: Pool, reader: modelfs.Reader, versions: Versions, total: Counts) -> None:
    work = [(reader, versions.path, seed) for seed in range(4)]
    for counts in pool.starmap(_check_some, work):
        total.add(counts)


def _check_some(reader: modelfs.Reader, versions: Path, seed: int) -> Counts:
    checks = Checks(reader, Versions(versions), seed)
    for _ in range(10):
        checks.run()
    return checks.counts


def _opening(store: Path, versions: Versions, stop: float, seed: int) -> Counts:
    """Readers are opened and closed, or forgotten: neither descriptors nor memory are lost."""
    total = Counts()
    while time.time() < stop:
        reader = modelfs.open(store)
        checks = Checks(reader, versions, seed + total.reads["opened"])
        checks.run()
        total.add(checks.counts)
        total.reads["opened"] += 1
        if total.reads["opened"] % 2:
            reader.close()
        del reader, checks
        assert len(os.listdir("/proc/self/fd")) < 40, "descriptors are lost"
    return total


KINDS: Final[dict[str, Callable[[Path, Versions, float, int], Counts]]] = {
    "threads": _with_threads,
    "pools": _in_pools,
    "opening": _opening,
}
