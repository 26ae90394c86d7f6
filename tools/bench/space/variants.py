"""The stored bytes that each member of a family adds to a store with the others."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.bench.space.ours import can_optimize, fresh, optimize, statistics
from tools.corpus.manifest import COMPANION, Entry
from tools.mounting import Mount

# The most that a file of each kind may add when its base is stored, in per cent of its size.
TARGETS: Final = {
    "base": 83.0,
    "cast-bf16": 1.0,
    "cast-f16": 1.0,
    "pickle": 1.0,
    "onnx": 1.0,
    "finetune": 36.5,
    "finetune-bf16": 1.0,
    "finetune-onnx": 1.0,
}
# The same for the family in BF16 alone, without casts.
BF16_TARGETS: Final = {"cast-bf16": 67.5, "finetune-bf16": 10.5}


@dataclass(frozen=True, slots=True)
class Growth:
    """The stored bytes that a file added, after the sync and after optimize."""

    family: str
    entry: Entry
    synced: int
    optimized: int | None
    target: float | None

    @property
    def percent(self) -> float:
        added = self.synced if self.optimized is None else self.optimized
        return 100 * added / self.entry.size


def grow(corpus: Path, entries: list[Entry], scratch: Path) -> list[Growth]:
    """Add a family's files one by one, in the order they were made; then only its BF16 ones."""
    models = [entry for entry in entries if entry.kind != COMPANION]
    bf16 = [entry for entry in models if entry.kind in BF16_TARGETS]
    return [
        *_grow(corpus, "all", models, TARGETS, scratch),
        *_grow(corpus, "BF16", bf16, BF16_TARGETS, scratch),
    ]


def _grow(
    corpus: Path, family: str, entries: Iterable[Entry], targets: dict[str, float], scratch: Path
) -> Iterator[Growth]:
    with fresh(scratch) as mount:
        before = _stored(mount)
        for entry in entries:
            synced, after = _add(mount, corpus, entry.path)
            optimized = None if after is None else after - before
            yield Growth(family, entry, synced - before, optimized, targets.get(entry.kind))
            before = synced if after is None else after


def _add(mount: Mount, corpus: Path, name: str) -> tuple[int, int | None]:
    """Return the stored bytes after the file is in chunks, and after they are optimized."""
    target = mount.path / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(corpus / name, target)
    mount.sync()
    synced = _stored(mount)
    if not can_optimize():
        return synced, None
    optimize(mount)
    return synced, _stored(mount)


def _stored(mount: Mount) -> int:
    stored: int = statistics(mount)["stored_bytes"]
    return stored
