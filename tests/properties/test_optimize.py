"""Files keep their bytes while the store is optimized, collected and crashes."""

import random
from typing import Final

import numpy as np
import pytest

from modelfs.store.index.tables import ROOT
from tests.support.optimized_models import f32, remove
from tests.support.paths import MODELS
from tests.support.related_tensors import weights
from tests.support.run_jobs import collect, ingest_file, optimize
from tests.support.stores import Box, content_of, new_file, tensors_of


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_files_read_as_they_were_written(wide: Box, seed: int) -> None:
    """Files keep their bytes while files come and go, and the store is optimized and crashes."""
    chance = random.Random(seed)
    models = {name.name: name.read_bytes() for name in sorted(MODELS.glob("*.safetensors"))}
    base = weights(250, 120, seed=seed)
    for number in range(3):
        tuned = base + weights(250, 120, seed=number) / np.float32(300)
        models[f"tuned-{number}"] = tensors_of(
            {"w": f32(tuned.astype(np.float32)), "t": f32(tuned.astype(np.float32).T)}
        )
    there: dict[str, bytes] = {}
    for _ in range(25):
        name, step = chance.choice(sorted(models)), chance.choice(STEPS)
        if step == "add" and name not in there:
            there[name] = models[name]
            ingest_file(wide.store, new_file(wide.store, name.encode(), models[name]))
        elif step == "remove" and there.pop(name, None) is not None:
            remove(wide.store, name.encode())
        else:
            do_step(wide, step)
    for name, data in there.items():
        inode = wide.store.namespace.lookup(ROOT, name.encode())
        assert content_of(wide.store, inode) == data


STEPS: Final = ("add", "add", "optimize", "remove", "collect", "crash")


def do_step(box: Box, step: str) -> None:
    match step:
        case "optimize":
            optimize(box.store)
        case "collect":
            collect(box.store)
        case "crash":
            box.store.commit()
            box.crash()
