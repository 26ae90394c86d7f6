"""An Ollama pull replayed: parts written by many threads, out of order, and resumed."""

import hashlib
import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.support.mounts import Mount, drop_kernel_caches

pytestmark = pytest.mark.mount

SIZE = 16_000_001
PARTS = 16
COPY = 32 * 1024  # bytes of one write, as io.CopyN has them
BLOB = np.random.default_rng(7).integers(0, 256, SIZE, np.uint8).tobytes()
DIGEST = hashlib.sha256(BLOB).hexdigest()


@dataclass(frozen=True)
class Pull:
    """A download into `blobs`, each part's progress in a small file beside the data."""

    blobs: Path

    @property
    def partial(self) -> Path:
        return self.blobs / f"sha256-{DIGEST}-partial"

    @property
    def final(self) -> Path:
        return self.blobs / f"sha256-{DIGEST}"

    def prepare(self) -> None:
        fd = os.open(self.partial, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            os.ftruncate(fd, SIZE)
        finally:
            os.close(fd)
        for number in range(PARTS):
            self.note(number, 0)

    def bounds(self, number: int) -> tuple[int, int]:
        return SIZE * number // PARTS, SIZE * (number + 1) // PARTS

    def progress(self, number: int) -> Path:
        return self.partial.with_name(f"{self.partial.name}-{number}")

    def completed(self, number: int) -> int:
        return int(json.loads(self.progress(number).read_text())["Completed"])

    def note(self, number: int, completed: int) -> None:
        start, stop = self.bounds(number)
        part = {"N": number, "Offset": start, "Size": stop - start, "Completed": completed}
        new = self.progress(number).with_suffix(".new")
        new.write_text(json.dumps(part))
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(self.progress(number))

    def fetch(self, number: int, *, limit: int = SIZE) -> None:
        """Write the rest of a part, or `limit` bytes of it, and note how far it got."""
        start, stop = self.bounds(number)
        done = self.completed(number)
        upto = min(stop, start + done + limit)
        fd = os.open(self.partial, os.O_WRONLY)
        try:
            for offset in range(start + done, upto, COPY):
                os.pwrite(fd, BLOB[offset : min(offset + COPY, upto)], offset)
            os.fsync(fd)
        finally:
            os.close(fd)
        self.note(number, upto - start)

    def fetch_all(self, *, limit: int = SIZE) -> None:
        order = random.Random(1).sample(range(PARTS), PARTS)
        with ThreadPoolExecutor(PARTS) as pool:
            for job in [pool.submit(self.fetch, number, limit=limit) for number in order]:
                job.result()

    def finish(self) -> None:
        for number in range(PARTS):
            self.progress(number).unlink()
        self.partial.rename(self.final)
        self.final.chmod(0o644)
        os.utime(self.final)


def test_pull(here: Path, shared_mount: Mount) -> None:
    """A blob written by sixteen threads out of order has its digest, fresh and cold."""
    pull = Pull(here)
    pull.prepare()
    pull.fetch_all()
    assert hashlib.sha256(pull.partial.read_bytes()).hexdigest() == DIGEST
    pull.finish()
    shared_mount.sync()
    drop_kernel_caches()
    assert hashlib.sha256(pull.final.read_bytes()).hexdigest() == DIGEST
    assert [path.name for path in here.iterdir()] == [pull.final.name]


def test_resume_after_a_crash(mount: Mount) -> None:
    """All parts that the progress files of a killed pull call complete are there."""
    pull = Pull(mount.path)
    pull.prepare()
    pull.fetch_all(limit=300_000)
    mount.kill()
    mount.start()
    with pull.partial.open("rb") as file:
        for number in range(PARTS):
            start, _ = pull.bounds(number)
            file.seek(start)
            completed = pull.completed(number)
            assert file.read(completed) == BLOB[start : start + completed]
    pull.fetch_all()
    pull.finish()
    mount.remount(drop_caches=True)
    assert hashlib.sha256(pull.final.read_bytes()).hexdigest() == DIGEST


def test_resume_after_sync(mount: Mount) -> None:
    """A partial blob that was cut into chunks meanwhile takes its missing parts all the same."""
    pull = Pull(mount.path)
    pull.prepare()
    for limit in (100_001, 555_555, SIZE):
        pull.fetch_all(limit=limit)
        mount.sync()
    pull.finish()
    assert hashlib.sha256(pull.final.read_bytes()).hexdigest() == DIGEST


def test_removed_partial(mount: Mount) -> None:
    """A pull that is given up leaves neither names nor bytes waiting."""
    pull = Pull(mount.path)
    pull.prepare()
    pull.fetch_all(limit=200_000)
    for path in list(mount.path.iterdir()):
        path.unlink()
    mount.sync()
    assert list(mount.path.iterdir()) == []
    assert mount.stats()["staged_bytes"] == 0
