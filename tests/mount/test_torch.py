"""Archives like those of torch.save, written to a mount and read as torch.load does.

torch itself is not among the tests' packages: what stands in for it makes the same system calls.
"""

import shutil
from pathlib import Path

import pytest

from tests.support.mounts import Mount, drop_kernel_caches, run_python
from tests.support.paths import MODELS

pytestmark = pytest.mark.mount

WEIGHTS = 986_112  # bytes of all tensors of the slice

# torch.save: the file truncated in place, its records one after the other, its directory last.
SAVE = """
    import sys
    import numpy as np
    from tests.support.torch_archives import saved

    rng = np.random.default_rng(int(sys.argv[2]))
    weights = {f"layer.{n}.weight": rng.standard_normal((n + 1, 50_000)) for n in range(5)}
    content = saved({n: ("F64", w.shape, w.tobytes()) for n, w in weights.items()})
    with open(sys.argv[1], "wb") as file:
        for start in range(0, len(content), 1 << 20):
            file.write(content[start : start + (1 << 20)])
"""

SAVE_SAFETENSORS = """
    import sys
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(int(sys.argv[2]))
    weights = {f"layer.{n}.weight": rng.standard_normal((n + 1, 50_000)) for n in range(5)}
    save_file(weights, sys.argv[1])
"""

# torch.load(mmap=True): the directory at the end first, then the pickle, then a private mapping of
# the whole file, whose pages are wanted in any order. Prints a digest of every storage.
LOAD = """
    import hashlib, mmap, random, sys, zipfile

    with open(sys.argv[1], "rb") as file:
        file.seek(0, 2)
        with zipfile.ZipFile(file) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            pickle = next(name for name in infos if name.endswith("/data.pkl"))
            print(hashlib.sha256(archive.read(pickle)).hexdigest())
        mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    storages = sorted(name for name in infos if "/data/" in name)
    random.Random(1).shuffle(storages)
    digests = {}
    for name in storages:
        at = infos[name].header_offset
        start = at + 30 + int.from_bytes(mapped[at + 26 : at + 28], "little")
        start += int.from_bytes(mapped[at + 28 : at + 30], "little")
        stop = start + infos[name].file_size
        pages = list(range(start, stop, 4096))
        random.Random(2).shuffle(pages)
        parts = {page: mapped[page : min(page + 4096, stop)] for page in pages}
        digests[name] = hashlib.sha256(b"".join(parts[page] for page in sorted(parts))).hexdigest()
        mapped[start] = 255 - mapped[start]
    print(*sorted(digests.items()), sep="\\n")
"""


def test_saved_and_mapped(here: Path, tmp_path: Path, shared_mount: Mount) -> None:
    """An archive is mapped from a mount as from a plain folder, freshly written and cold."""
    for folder in (here, tmp_path):
        run_python(SAVE, folder / "m.pt", "1")
    expected = run_python(LOAD, tmp_path / "m.pt")
    assert run_python(LOAD, here / "m.pt") == expected
    shared_mount.sync()
    drop_kernel_caches()
    assert run_python(LOAD, here / "m.pt") == expected
    drop_kernel_caches()
    assert (here / "m.pt").read_bytes() == (tmp_path / "m.pt").read_bytes()


@pytest.mark.parametrize("name", ["base.pt", "../torch/checkpoint.pt"])
def test_real_archives(here: Path, shared_mount: Mount, name: str) -> None:
    """Archives that torch wrote are mapped from a mount as from their folder."""
    source = MODELS / name
    copy = Path(shutil.copy(source, here))
    expected = run_python(LOAD, source)
    assert run_python(LOAD, copy) == expected
    shared_mount.sync()
    drop_kernel_caches()
    assert run_python(LOAD, copy) == expected


def test_saved_over(here: Path, shared_mount: Mount) -> None:
    """A checkpoint that is saved over in place, as trainers do, is the new one."""
    for seed in ("3", "4"):
        run_python(SAVE, here / "m.pt", seed)
        run_python(SAVE, here / f"{seed}.pt", seed)
    shared_mount.sync()
    drop_kernel_caches()
    assert (here / "m.pt").read_bytes() == (here / "4.pt").read_bytes()


def test_both_formats_of_one_model(mount: Mount) -> None:
    """Weights that are saved in both formats are stored once, and `inspect` says so."""
    run_python(SAVE_SAFETENSORS, mount.path / "m.safetensors", "5")
    mount.sync()
    before = mount.distinct_bytes()
    run_python(SAVE, mount.path / "m.pt", "5")
    mount.sync()
    assert mount.distinct_bytes() - before < 16_384
    report = mount.inspect(mount.path / "m.pt")
    assert report["format"] == "torch"
    assert [tensor["name"] for tensor in report["tensors"]] == [
        f"layer.{number}.weight" for number in range(5)
    ]
    assert [
        (each["path"], each["tensor"])
        for tensor in report["tensors"]
        for each in tensor["shared_with"]
    ] == [("/m.safetensors", f"layer.{number}.weight") for number in range(5)]


BOTH = ("base.pt", "base.safetensors")


@pytest.mark.parametrize("names", [BOTH, BOTH[::-1]])
def test_real_weights_in_both_formats(mount: Mount, names: tuple[str, ...]) -> None:
    """Whichever of the two comes first, the other adds none of its weights."""
    sizes = []
    for name in names:
        shutil.copy(MODELS / name, mount.path)
        mount.sync()
        sizes.append(mount.distinct_bytes())
    assert sizes[1] - sizes[0] <= (MODELS / names[1]).stat().st_size - WEIGHTS
