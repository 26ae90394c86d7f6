"""What changes the mount meanwhile: programs that write, and the daemon's own jobs."""

import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from tools.mounting import Failed, modelfs
from tools.trust.reader.content import (
    BLOCK,
    BLOCKS,
    BLOCKS_MAX,
    CHECKPOINTS,
    FILES,
    MODELS,
    STABLE,
    Versions,
    block,
    model,
    name_of,
    stable,
    stable_name,
)

Step = Callable[[Path, Versions, random.Random], None]


def prepare(mount: Path, versions: Versions) -> None:
    """Make the first version of everything, and make it durable."""
    for folder in ("models/in-place", "crowd", "links"):
        (mount / folder).mkdir(parents=True)
    for number in range(STABLE):
        (mount / stable_name(number)).write_bytes(stable(number))
    rng = random.Random(0)
    for file in range(FILES):
        _write(file, mount, versions, rng)
    (mount / "links" / "m0").symlink_to("../models/m0.safetensors")
    os.sync()
    modelfs("sync", mount)


def write_forever(kind: str, mount: Path, versions: Path, stop: float) -> int:
    """Do the steps of a kind until `stop` (of time.time); returns how many."""
    step, rng, count = KINDS[kind], random.Random(kind), 0
    shared = Versions(versions)
    while time.time() < stop:
        step(mount, shared, rng)
        count += 1
    return count


def _write(file: int, mount: Path, versions: Versions, rng: random.Random) -> None:
    version = int(versions.begun[file]) + 1
    versions.begun[file] = version
    if file < MODELS:
        _replace(mount / name_of(file), model(file, version))
    elif file < MODELS + CHECKPOINTS:
        _overwrite(mount / name_of(file), model(file, version), rng)
    else:
        _write_blocks(file, version, mount / name_of(file), rng)
    versions.durable[file] = version


def _replace(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    with new.open("wb") as out:
        out.write(data)
        os.fsync(out.fileno())
    new.rename(path)
    _sync(path.parent)


def _overwrite(path: Path, data: bytes, rng: random.Random) -> None:
    with path.open("wb", buffering=0) as out:
        for at in range(0, len(data), step := rng.choice((1 << 20, 1 << 22, 3_000_000))):
            out.write(data[at : at + step])
            if rng.random() < 0.2:
                os.fsync(out.fileno())
        os.fsync(out.fileno())


def _write_blocks(file: int, version: int, path: Path, rng: random.Random) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        if rng.random() < 0.2:
            os.truncate(path, BLOCK * rng.randrange(BLOCKS_MAX))
        # All that are there, so that the version before is gone when this one is durable.
        count = max(os.fstat(fd).st_size // BLOCK, rng.randrange(1, BLOCKS_MAX))
        for number in rng.sample(range(count), count):
            os.pwrite(fd, block(file, number, version), number * BLOCK)
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _models(mount: Path, versions: Versions, rng: random.Random) -> None:
    _write(rng.randrange(MODELS + CHECKPOINTS), mount, versions, rng)


def _blocks(mount: Path, versions: Versions, rng: random.Random) -> None:
    _write(FILES - 1 - rng.randrange(BLOCKS), mount, versions, rng)
    time.sleep(0.2)


def _crowd(mount: Path, versions: Versions, rng: random.Random) -> None:
    """Names come and go among those that stay; so do folders, and hard links to models."""
    folder = mount / "crowd"
    for _ in range(50):
        name = folder / f"stable-{rng.randrange(STABLE):03}.{rng.randrange(20)}"
        match rng.randrange(4):
            case 0:
                name.write_bytes(b"x" * rng.randrange(100_000))
            case 1:
                name.unlink(missing_ok=True)
            case 2:
                with suppress(FileNotFoundError):
                    name.rename(folder / f"moved-{rng.randrange(50)}")
            case _:
                link = mount / "links" / f"hard{rng.randrange(4)}"
                link.unlink(missing_ok=True)
                # As on other file systems, a model can be replaced between its lookup and the link.
                with suppress(FileNotFoundError):
                    os.link(mount / name_of(rng.randrange(MODELS)), link)
    copy = mount / f"copies{rng.randrange(3)}"
    shutil.rmtree(copy, ignore_errors=True)
    with suppress(shutil.Error, OSError):  # of files that are gone again
        shutil.copytree(mount / "models", copy)


def _jobs(mount: Path, versions: Versions, rng: random.Random) -> None:
    try:
        modelfs(rng.choice(("sync", "gc", "optimize", "scrub")), mount)
    except Failed as exc:
        if "already" not in str(exc) and "busy" not in str(exc):
            raise
    time.sleep(rng.random())


KINDS: Final[dict[str, Step]] = {
    "models": _models,
    "blocks": _blocks,
    "crowd": _crowd,
    "jobs": _jobs,
}
