"""safetensors writes to a mount and reads from it, in processes of its own."""

import hashlib
import json
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.support.mounts import Mount, drop_kernel_caches, mounted, run_python
from tests.support.paths import MODELS

pytestmark = pytest.mark.mount

REAL = sorted(MODELS.glob("*.safetensors"))

SAVE = """
    import sys
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(int(sys.argv[2]))
    tensors = {f"layer.{n}.weight": rng.standard_normal((n + 1, 50_000)) for n in range(5)}
    tensors |= {f"layer.{n}.bias": rng.standard_normal(n + 1).astype("f4") for n in range(5)}
    save_file(tensors, sys.argv[1], metadata={"format": "np"})
"""

# Prints a digest of every tensor, in the order of their names.
LOAD = """
    import hashlib, sys
    from safetensors import safe_open

    with safe_open(sys.argv[1], "numpy", **({"backend": sys.argv[2]} if sys.argv[2:] else {})) as f:
        for name in sorted(f.keys()):
            print(name, hashlib.sha256(f.get_tensor(name).tobytes()).hexdigest())
"""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_saved_bytes(here: Path, tmp_path: Path) -> None:
    """save_file writes the same bytes to a mount as to a plain folder."""
    for folder in (here, tmp_path):
        run_python(SAVE, folder / "m.safetensors", "1")
    assert sha256(here / "m.safetensors") == sha256(tmp_path / "m.safetensors")
    assert (here / "m.safetensors").stat().st_mode == (tmp_path / "m.safetensors").stat().st_mode
    assert [path.name for path in here.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_loaded_tensors(here: Path, tmp_path: Path, shared_mount: Mount, backend: str) -> None:
    """Both back ends load equal tensors from a mount, freshly written and cold."""
    for folder in (here, tmp_path):
        run_python(SAVE, folder / "m.safetensors", "2")
    expected = run_python(LOAD, tmp_path / "m.safetensors", backend)
    assert run_python(LOAD, here / "m.safetensors", backend) == expected
    shared_mount.sync()
    drop_kernel_caches()
    assert run_python(LOAD, here / "m.safetensors", backend) == expected


@pytest.mark.parametrize("source", REAL, ids=lambda path: path.stem)
def test_real_weights(here: Path, source: Path) -> None:
    """Models that were really trained load from a mount as they do from their folder."""
    copy = here / source.name
    copy.write_bytes(source.read_bytes())
    digests = """
        import hashlib, sys
        from safetensors import deserialize

        for name, tensor in sorted(deserialize(open(sys.argv[1], "rb").read())):
            digest = hashlib.sha256(tensor["data"]).hexdigest()
            print(name, tensor["dtype"], tensor["shape"], digest)
    """
    assert run_python(digests, copy) == run_python(digests, source)


def test_save_over_an_open_model(here: Path) -> None:
    """A model that is open and mapped keeps its tensors when another is saved over it."""
    path = here / "m.safetensors"
    run_python(
        """
        import sys
        import numpy as np
        from safetensors import safe_open
        from safetensors.numpy import load_file, save_file

        old, new = (np.full((300, 1000), value, "f4") for value in (1, 2))
        save_file({"w": old}, sys.argv[1])
        with safe_open(sys.argv[1], "numpy") as opened:
            save_file({"w": new}, sys.argv[1])
            assert np.array_equal(opened.get_tensor("w"), old)
        assert np.array_equal(load_file(sys.argv[1])["w"], new)
        """,
        path,
    )


def test_parallel_loading_through_a_tiny_cache(fuse: None, store: Path, tmp_path: Path) -> None:
    """Eight readers of cold models get every tensor right, though the cache holds but one."""
    with mounted(store, tmp_path / "mnt", "--cache-size", "1MiB") as mount:
        paths = [mount.path / source.name for source in REAL]
        for path, source in zip(paths, REAL, strict=True):
            path.write_bytes(source.read_bytes())
        mount.sync()
        mount.remount(drop_caches=True)
        with ThreadPoolExecutor(8) as pool:
            digests = list(pool.map(sha256, paths * 4))
        assert digests == [sha256(source) for source in REAL] * 4


def test_parallel_slices_of_one_model(here: Path, shared_mount: Mount) -> None:
    """Threads that fault in slices of one mapped model, as transformers does, all read right."""
    run_python(SAVE, here / "m.safetensors", "3")
    shared_mount.sync()
    drop_kernel_caches()
    run_python(
        """
        import sys
        from concurrent.futures import ThreadPoolExecutor
        import numpy as np
        from safetensors import safe_open

        rng = np.random.default_rng(3)
        expected = {f"layer.{n}.weight": rng.standard_normal((n + 1, 50_000)) for n in range(5)}
        with safe_open(sys.argv[1], "numpy") as model, ThreadPoolExecutor(8) as pool:
            def check(name, start):
                got = model.get_slice(name)[:, start : start + 1000]
                return np.array_equal(got, expected[name][:, start : start + 1000])
            jobs = [pool.submit(check, n, s) for s in range(0, 50_000, 1000) for n in expected]
            assert all(job.result() for job in jobs)
        """,
        here / "m.safetensors",
    )


def test_checkpoint_rotation(here: Path) -> None:
    """A trainer that keeps two checkpoints ends with the newest two, whole."""
    run_python(
        """
        import json, os, shutil, sys
        from pathlib import Path
        import numpy as np
        from safetensors.numpy import load_file, save_file

        top = Path(sys.argv[1])
        for step in range(1, 6):
            folder = top / f"checkpoint-{step}"
            folder.mkdir()
            shards = [f"model-{n:05}-of-00002.safetensors" for n in (1, 2)]
            for shard in shards:
                save_file({shard: np.full(100_000, step, "f4")}, folder / shard)
            (folder / "trainer_state.json").write_text(json.dumps({"step": step}))
            with open(folder / "model.safetensors.index.json", "w") as index:
                json.dump({"weight_map": {shard: shard for shard in shards}}, index)
            for old in sorted(top.glob("checkpoint-*"), key=os.path.getmtime)[:-2]:
                shutil.rmtree(old)
        assert sorted(os.listdir(top)) == ["checkpoint-4", "checkpoint-5"]
        for step in (4, 5):
            for shard in (top / f"checkpoint-{step}").glob("*.safetensors"):
                assert (load_file(shard)[shard.name] == step).all()
        """,
        here,
    )


def header(source: bytes) -> tuple[dict[str, object], bytes]:
    size = struct.unpack_from("<Q", source)[0]
    return json.loads(source[8 : 8 + size]), source[8 + size :]


def with_header(text: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def odd_spaces(source: bytes) -> bytes:
    tensors, data = header(source)
    return with_header(b"  " + json.dumps(tensors, indent=3).encode() + b" \n ", data)


def reversed_names(source: bytes) -> bytes:
    tensors, data = header(source)
    return with_header(json.dumps(dict(reversed(tensors.items()))).encode(), data)


def repeated_name(source: bytes) -> bytes:
    tensors, data = header(source)
    text = json.dumps(tensors).encode()
    return with_header(text[:-1] + b"," + text[1:], data)


def with_a_tail(source: bytes) -> bytes:
    return source + b"tail" * 1000


def truncated(source: bytes) -> bytes:
    return source[:-5]


def header_only(source: bytes) -> bytes:
    return source[:600]


def endless_header(source: bytes) -> bytes:
    return b"\xff" * 8 + source[8:]


@pytest.mark.parametrize(
    "damage",
    [
        odd_spaces,
        reversed_names,
        repeated_name,
        with_a_tail,
        truncated,
        header_only,
        endless_header,
    ],
    ids=lambda damage: damage.__name__,
)
def test_odd_files_come_back_as_written(
    here: Path, shared_mount: Mount, damage: Callable[[bytes], bytes]
) -> None:
    """A file that is odd or no model at all is stored byte for byte."""
    content = damage((MODELS / "base.safetensors").read_bytes())
    path = here / "odd.safetensors"
    path.write_bytes(content)
    shared_mount.sync()
    drop_kernel_caches()
    assert path.read_bytes() == content


def test_many_small_tensors(here: Path, shared_mount: Mount) -> None:
    """A model of two thousand tensors of a few bytes each is read back whole."""
    run_python(
        """
        import sys
        import numpy as np
        from safetensors.numpy import save_file

        save_file({f"t{n}": np.full(n % 7, n, "i4") for n in range(2000)}, sys.argv[1])
        """,
        here / "m.safetensors",
    )
    before = sha256(here / "m.safetensors")
    shared_mount.sync()
    drop_kernel_caches()
    assert sha256(here / "m.safetensors") == before


def test_tensor_larger_than_a_chunk(here: Path, shared_mount: Mount) -> None:
    """A tensor cut into many chunks is read right across every cut, at odd offsets."""
    path = here / "m.safetensors"
    tensor = np.random.default_rng(4).integers(0, 256, 9_999_999, np.uint8)
    content = with_header(
        json.dumps(
            {"w": {"dtype": "U8", "shape": [tensor.size], "data_offsets": [0, tensor.size]}}
        ).encode(),
        tensor.tobytes(),
    )
    path.write_bytes(content)
    shared_mount.sync()
    drop_kernel_caches()
    with path.open("rb") as file:
        for offset in range(0, len(content), 777_777):
            file.seek(offset)
            assert file.read(555_555) == content[offset : offset + 555_555]
