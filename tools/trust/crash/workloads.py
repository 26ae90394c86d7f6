"""The workloads: the actions of clients in a mount until their time is over.

Each is a handful of client processes at the same time. Workloads with promises run beside clients
without any, since most mistakes are made with neighbouring data.
"""

import itertools
import json
import mmap
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tools.trust.crash.clients import Client, Site, start
from tools.trust.crash.promises import PER_FAMILY, WEIGHTS, Content, of_seed, size_of

Work = Callable[[Client], None]

SIZES: Final = (1, 700, 4096, 50_000, 300_000, 800_000)
FILES: Final = 40  # of a client at most, so that a check of all stays short
# Early ingest begins at four whole windows of 64 MiB; the next write shows that a window is whole.
EARLY_FROM: Final = (4 * 64 << 20) + (2 << 20)
LONG_PARTS: Final = 17
LONG_PART: Final = 16 << 20
LONG_START: Final = 256 << 10  # bytes at the start of a part that are not zeros
TENSORS: Final = (1 << 20, 300_000, 4096, 100)


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of some processes, by their names."""

    clients: Mapping[str, Work]
    setup: Mapping[str, Work] = field(default_factory=dict)
    scale: float = 1.0  # of its duration, compared with others


def run(clients: Mapping[str, Work], site: Site, seed: int) -> None:
    """Let clients work until all of them have ended.

    Raises:
        OSError: one of them failed; its reason is on stderr.
    """
    processes = {name: start(work, site, name, seed) for name, work in clients.items()}
    codes = {name: os.waitpid(process, 0)[1] for name, process in processes.items()}
    if failed := [name for name, code in codes.items() if code]:
        raise OSError(f"the workload failed: {', '.join(failed)}")


def any_content(client: Client) -> Content:
    return of_seed(next(client.numbers), client.draw.choice(SIZES))


def model(seeds: list[int]) -> Content:
    """Return a safetensors file with a tensor of random bytes for each seed."""
    return (_header(list(TENSORS)), *zip(seeds, TENSORS, strict=True))


def long_model(seeds: list[int]) -> Content:
    """Return a safetensors file with a long tensor for each seed.

    Most of each is zeros, which are written like other bytes, but images of the disk stay small.
    """
    parts = [part for seed in seeds for part in ((seed, LONG_START), (0, LONG_PART - LONG_START))]
    return (_header([LONG_PART] * len(seeds)), *parts)


def _header(sizes: list[int], dtype: str = "U8", width: int = 1) -> str:
    header: dict[str, object] = {}
    at = 0
    for number, size in enumerate(sizes):
        span = [at, at + size]
        header[f"{number}"] = {"dtype": dtype, "shape": [size // width], "data_offsets": span}
        at += size
    text = json.dumps(header)
    return len(text).to_bytes(8, "little").decode("latin-1") + text


def save_with_fsync(client: Client) -> None:
    """Write files, new ones and then old ones again, each with an fsync."""
    for number in itertools.count():
        if not client.has_time:
            return
        name = number if number < FILES else client.draw.randrange(FILES)
        client.write(f"{name}", any_content(client), durable=True)


def save_in_place(client: Client) -> None:
    """Truncate and write the same few files again, rarely with an fsync."""
    while client.has_time:
        name = f"{client.draw.randrange(6)}"
        client.write(name, any_content(client), durable=client.draw.random() < 0.1)


def replace_with_fsync(client: Client) -> None:
    while client.has_time:
        client.replace(f"{client.draw.randrange(4)}", any_content(client), durable=True)


def replace_without_fsync(client: Client) -> None:
    """Replace a few files, written with fsync at first, again and again without one."""
    names = [f"{number}" for number in range(8)]
    for name in names:
        client.replace(name, any_content(client), durable=True)
    while client.has_time:
        client.replace(client.draw.choice(names), any_content(client), durable=False)
        client.claim_names()


def save_mapped(client: Client) -> None:
    """Write files through mappings, and empty them with O_TRUNC while their pages are dirty."""
    mappings: dict[str, mmap.mmap] = {}
    while client.has_time:
        name = f"{client.draw.randrange(6)}"
        durable = client.draw.random() < 0.3
        if client.draw.random() < 0.5:
            mappings[name] = client.write_mapped(name, any_content(client), durable=durable)
        else:
            client.write(name, any_content(client), durable=durable)
        if client.draw.random() < 0.05:
            client.sync()


def save_models(client: Client) -> None:
    """Write models that share tensors; now and then a sync puts them into chunks."""
    number = 0
    while client.has_time:
        for _ in range(3):
            seeds = [client.draw.randrange(1, 9) for _ in TENSORS]
            client.write(f"{number % 12}", model(seeds), durable=False)
            number += 1
        client.sync()


def save_long_model(client: Client) -> None:
    """Write a model that is ingested while it is written, and then patch it in place."""
    seeds = [client.draw.randrange(1, 9) for _ in range(LONG_PARTS)]
    client.write("long", long_model(seeds), durable=False, stall_at=EARLY_FROM)
    client.sync()
    seeds[7] = 77
    start = size_of(long_model(seeds)[:1]) + 7 * LONG_PART
    client.patch("long", long_model(seeds), start, start + LONG_PART)
    client.sync()


VARIANTS: Final = [f"{number}" for number in range(12)]


def _variant(client: Client) -> Content:
    return model([client.draw.randrange(1, 41) for _ in TENSORS])


def fill_variants(client: Client) -> None:
    for name in VARIANTS:
        client.write(name, _variant(client), durable=False)
    client.sync()


def renew_variants(client: Client) -> None:
    """Remove most of the variants, and write them with tensors that others have or had."""
    while client.has_time:
        names = client.draw.sample(VARIANTS, 9)
        client.remove(names, durable=client.draw.random() < 0.5)
        for name in names[:6]:
            client.write(name, _variant(client), durable=client.draw.random() < 0.5)
        client.sync()


def weights(variants: list[int]) -> Content:
    """Return a safetensors file of weights, with a variant of each tensor."""
    sizes = [size // 4 * 4 for size in TENSORS]
    families = range(WEIGHTS, WEIGHTS + PER_FAMILY * len(TENSORS), PER_FAMILY)
    seeds = [family + variant for family, variant in zip(families, variants, strict=True)]
    return (_header(sizes, "F32", 4), *zip(seeds, sizes, strict=True))


def fill_family(client: Client) -> None:
    for number, name in enumerate(VARIANTS):
        client.write(name, weights([number % 4] * len(TENSORS)), durable=False)
    client.sync()


def renew_family(client: Client) -> None:
    """Write and remove models that derive from each other, and so the bases of others."""
    while client.has_time:
        for name in client.draw.sample(VARIANTS, 4):
            variants = [client.draw.randrange(4) for _ in TENSORS]
            client.write(name, weights(variants), durable=client.draw.random() < 0.5)
        client.sync()
        client.remove(client.draw.sample(VARIANTS, 1), durable=client.draw.random() < 0.5)


def optimize(client: Client) -> None:
    while client.has_time:
        client.optimize()


def collect(client: Client) -> None:
    while client.has_time:
        client.collect()


WORKLOADS: Final[Mapping[str, Workload]] = {
    "fsync": Workload({"a": save_with_fsync, "b": save_with_fsync, "c": save_in_place}),
    "rename": Workload({"a": replace_with_fsync, "b": replace_with_fsync, "c": save_in_place}),
    "save-over": Workload({"a": save_in_place, "b": replace_without_fsync}, scale=2.0),
    "ingest": Workload({"a": save_models, "long": save_long_model, "c": save_with_fsync}),
    "gc": Workload(
        {"variants": renew_variants, "b": collect, "c": replace_without_fsync},
        setup={"variants": fill_variants},
        scale=1.5,
    ),
    "optimize": Workload(
        {"variants": renew_family, "b": optimize, "c": replace_without_fsync},
        setup={"variants": fill_family},
        scale=1.5,
    ),
}
