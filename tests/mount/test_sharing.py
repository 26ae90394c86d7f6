"""The space that a store saves: equal tensors, copies and edits, by `modelfs stats`."""

import hashlib
import json
import os
import shutil
import struct

import pytest

from tests.support.mounts import Mount, drop_kernel_caches, modelfs, run
from tests.support.paths import MODELS
from tests.support.stores import noise

pytestmark = pytest.mark.mount

GLUE = 16_384  # bytes of headers, framing and tensors too small to be worth a chunk

EMBEDDING = 256 * 384 * 4
MATRIX = 384 * 384 * 4

CHUNK = 1 << 20


def add(mount: Mount, *names: str) -> int:
    """Copy models into the mount and return how many distinct bytes were new."""
    before = mount.distinct_bytes()
    for name in names:
        shutil.copy(MODELS / name, mount.path)
    mount.sync()
    return mount.distinct_bytes() - before


def size(*names: str) -> int:
    return sum((MODELS / name).stat().st_size for name in names)


def safetensors(tensors: dict[str, bytes], padding: int = 0) -> bytes:
    """Lay bytes out as a safetensors file whose header has `padding` spaces behind it."""
    header, offset = {}, 0
    for name, data in tensors.items():
        header[name] = {
            "dtype": "U8",
            "shape": [len(data)],
            "data_offsets": [offset, offset + len(data)],
        }
        offset += len(data)
    text = json.dumps(header).encode() + b" " * padding
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


BASE = ("base.safetensors",)
INLINE = ("base.onnx",)
EXTERNAL = ("base-external.onnx", "base-external.onnx.data")


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        (BASE, INLINE, EMBEDDING),
        (INLINE, BASE, EMBEDDING),
        (BASE, EXTERNAL, EMBEDDING),
        (EXTERNAL, BASE, EMBEDDING),
        (INLINE, EXTERNAL, EMBEDDING + MATRIX),
        (EXTERNAL, INLINE, EMBEDDING + MATRIX),
        (BASE, ("vocab-extended.safetensors",), MATRIX),
        (BASE, ("lora-merged.safetensors",), EMBEDDING),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else str(value),
)
def test_equal_tensors(
    mount: Mount, first: tuple[str, ...], second: tuple[str, ...], equal: int
) -> None:
    """A second file of a family adds no tensor that the first one has, wherever it lies."""
    add(mount, *first)
    assert add(mount, *second) <= size(*second) - equal + GLUE


def test_data_file_before_its_model(mount: Mount) -> None:
    """External data that comes long before the model that names its parts shares them still."""
    add(mount, *BASE)
    add(mount, "base-external.onnx.data")
    add(mount, "base-external.onnx")
    assert mount.distinct_bytes() <= size(*BASE, *EXTERNAL) - EMBEDDING + GLUE


def test_blobs_without_names(mount: Mount) -> None:
    """Content decides, not the name: blobs called by their digest share their tensors."""
    add(mount, *BASE)
    before = mount.distinct_bytes()
    content = (MODELS / "base.onnx").read_bytes()
    (mount.path / hashlib.sha256(content).hexdigest()).write_bytes(content)
    mount.sync()
    assert mount.distinct_bytes() - before <= len(content) - EMBEDDING + GLUE


def test_other_offsets(mount: Mount) -> None:
    """Models with the same tensors in another order, at odd offsets, store them once."""
    tensors = {f"t{n}": noise(300_000 + 1001 * n, n) for n in range(10)}
    (mount.path / "a").write_bytes(safetensors(tensors))
    mount.sync()
    before = mount.distinct_bytes()
    turned = {f"other-{name}": data for name, data in reversed(tensors.items())}
    (mount.path / "b").write_bytes(safetensors(turned, padding=77))
    mount.sync()
    assert mount.distinct_bytes() - before <= GLUE


def test_large_tensors_at_other_offsets(mount: Mount) -> None:
    """Tensors of many chunks are shared whole between models that place them differently."""
    large = noise(7 * CHUNK + 12_345, 1)
    (mount.path / "a").write_bytes(safetensors({"large": large}))
    mount.sync()
    before = mount.distinct_bytes()
    (mount.path / "b").write_bytes(safetensors({"small": noise(99_999, 2), "large": large}))
    mount.sync()
    assert mount.distinct_bytes() - before <= 99_999 + GLUE


def test_repeated_tensor_in_one_file(mount: Mount) -> None:
    """A tensor that a model holds twice, as tied weights are saved, is stored once."""
    tied = noise(2_000_001, 3)
    (mount.path / "a").write_bytes(safetensors({"one": tied, "gap": b"x" * 77, "two": tied}))
    mount.sync()
    assert mount.distinct_bytes() <= len(tied) + GLUE


def test_copies(mount: Mount) -> None:
    """A model that is stored adds less than a hundredth of its size when copied."""
    add(mount, *BASE, *EXTERNAL)
    before = mount.stats()["stored_bytes"]
    for name in (*BASE, *EXTERNAL):
        shutil.copy(MODELS / name, mount.path / f"copy of {name}")
        shutil.copy(mount.path / name, mount.path / f"another {name}")
    mount.sync()
    after = mount.stats()
    assert after["stored_bytes"] - before < size(*BASE, *EXTERNAL) / 100
    assert after["files"] == 9
    assert after["logical_bytes"] == 3 * size(*BASE, *EXTERNAL)


def test_one_edited_byte(mount: Mount) -> None:
    """One byte changed in a large stored file stores one chunk more."""
    content = noise(24 * CHUNK, 4)
    (mount.path / "original").write_bytes(content)
    shutil.copy(mount.path / "original", mount.path / "edited")
    mount.sync()
    before = mount.stats()
    with (mount.path / "edited").open("r+b") as file:
        file.seek(10_000_000)
        file.write(bytes([content[10_000_000] ^ 1]))
    mount.sync()
    after = mount.stats()
    assert after["chunks"] - before["chunks"] == 1
    assert 0 < after["stored_bytes"] - before["stored_bytes"] <= CHUNK + 4096


def test_rewritten_with_the_same_bytes(mount: Mount) -> None:
    """A file overwritten in place with its own bytes adds no chunk."""
    add(mount, *BASE)
    before = mount.stats()["chunks"]
    with (mount.path / BASE[0]).open("r+b") as file:
        file.write((MODELS / BASE[0]).read_bytes())
    mount.sync()
    assert mount.stats()["chunks"] == before


def test_appended(mount: Mount) -> None:
    """Appending to a large stored file stores the tail, not the file again."""
    (mount.path / "x").write_bytes(noise(16 * CHUNK, 5))
    mount.sync()
    before = mount.stats()["stored_bytes"]
    with (mount.path / "x").open("ab") as file:
        file.write(noise(1000, 6))
    mount.sync()
    assert mount.stats()["stored_bytes"] - before <= CHUNK


def test_zeros(mount: Mount) -> None:
    """Zeros and holes of a hundred megabytes take next to nothing."""
    (mount.path / "zeros").write_bytes(bytes(50_000_000))
    (mount.path / "hole").touch()
    os.truncate(mount.path / "hole", 50_000_000)
    mount.sync()
    stats = mount.stats()
    assert stats["logical_bytes"] == 100_000_000
    assert stats["stored_bytes"] <= 3 * CHUNK


def test_bytes_are_sacred(mount: Mount) -> None:
    """Every model has its digest from the kernel's cache, from the store, and once remounted."""
    expected = {}
    for source in MODELS.iterdir():
        shutil.copy(source, mount.path)
        expected[source.name] = hashlib.sha256(source.read_bytes()).hexdigest()

    def digests() -> dict[str, str]:
        paths = mount.path.iterdir()
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    assert digests() == expected
    mount.sync()
    assert digests() == expected
    drop_kernel_caches()
    assert digests() == expected
    mount.remount(drop_caches=True)
    assert digests() == expected


def test_shared_chunk_survives_its_first_file(mount: Mount) -> None:
    """Removing the file that brought a chunk, and collecting, leaves other users of it whole."""
    add(mount, *BASE)
    add(mount, *INLINE, "vocab-extended.safetensors")
    (mount.path / BASE[0]).unlink()
    mount.stop()
    modelfs("gc", mount.store)
    mount.start()
    for name in (*INLINE, "vocab-extended.safetensors"):
        assert (mount.path / name).read_bytes() == (MODELS / name).read_bytes()


def test_collected(mount: Mount) -> None:
    """`modelfs gc` frees the room of deleted files; a dry run frees nothing."""
    for number in range(4):
        (mount.path / f"{number}").write_bytes(noise(8 * CHUNK, number))
    mount.sync()
    for number in range(3):
        (mount.path / f"{number}").unlink()
    mount.sync()
    full = mount.stats()["disk_bytes"]
    mount.stop()
    modelfs("gc", "--dry-run", mount.store)
    mount.start()
    assert mount.stats()["disk_bytes"] >= full - CHUNK
    mount.stop()
    modelfs("gc", mount.store)
    mount.start()
    stats = mount.stats()
    assert stats["disk_bytes"] <= full - 16 * CHUNK
    assert stats["stored_bytes"] <= 9 * CHUNK
    assert (mount.path / "3").read_bytes() == noise(8 * CHUNK, 3)


def test_stats_add_up(mount: Mount) -> None:
    """The counts of `modelfs stats` agree with the files and with each other."""
    add(mount, *BASE, *INLINE)
    stats = mount.stats()
    assert stats["files"] == 2
    assert stats["logical_bytes"] == size(*BASE, *INLINE)
    assert stats["staged_bytes"] == 0
    assert stats["pending_files"] == 0
    assert stats["chunks"] == sum(form["chunks"] for form in stats["forms"].values())
    assert stats["stored_bytes"] == sum(form["stored_bytes"] for form in stats["forms"].values())
    assert stats["shared_bytes"] >= EMBEDDING
    assert stats["disk_bytes"] >= stats["stored_bytes"]


def test_stats_without_a_mount(mount: Mount) -> None:
    """A store counts the same, mounted or not."""
    add(mount, *BASE)
    mounted = mount.stats()
    mount.stop()
    alone = json.loads(modelfs("stats", mount.store, "--json"))
    for key in ("files", "logical_bytes", "stored_bytes", "chunks", "shared_bytes", "forms"):
        assert alone[key] == mounted[key]
    mount.start()


def test_inspect(mount: Mount) -> None:
    """`modelfs inspect` reports tensors that a model has."""
    add(mount, *BASE)
    assert "safetensors" in json.dumps(mount.inspect(mount.path / BASE[0]))


def test_copied_from_the_mount_by_cp(mount: Mount) -> None:
    """`cp` of a large model within a mount ends with one stored copy."""
    (mount.path / "a").write_bytes(safetensors({"w": noise(12_000_000, 8)}))
    run("cp", mount.path / "a", mount.path / "b")
    mount.sync()
    assert mount.distinct_bytes() <= 12_000_000 + GLUE
    assert (mount.path / "b").read_bytes() == (mount.path / "a").read_bytes()


def test_inspect_of_a_hard_link(mount: Mount) -> None:
    """The report has the name by which the file was named, and another one that it has."""
    add(mount, *BASE)
    link = mount.path / "link"
    link.hardlink_to(mount.path / BASE[0])
    assert modelfs("inspect", link).startswith(f"/link (also /{BASE[0]}): safetensors, ")
