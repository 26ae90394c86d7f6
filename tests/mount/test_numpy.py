"""numpy saves, loads and maps arrays on a mount, in processes of its own."""

from pathlib import Path

import pytest

from tests.support.mounts import Mount, run_python

pytestmark = pytest.mark.mount


def test_memmap_new(here: Path, shared_mount: Mount) -> None:
    """An array mapped as new keeps elements that were written after its file was closed."""
    run_python(
        """
        import sys
        import numpy as np

        array = np.memmap(sys.argv[1], "f4", "w+", shape=(1000, 777))
        array[:] = np.arange(777_000).reshape(1000, 777)
        array.flush()
        array[500] = -1
        """,
        here / "a.dat",
    )
    shared_mount.cool()
    run_python(
        """
        import sys
        import numpy as np

        expected = np.arange(777_000, dtype="f4").reshape(1000, 777)
        expected[500] = -1
        assert np.array_equal(np.memmap(sys.argv[1], "f4", "r", shape=(1000, 777)), expected)
        """,
        here / "a.dat",
    )


def test_memmap_update(here: Path, shared_mount: Mount) -> None:
    """Elements changed in a mapping of a stored array change in the file, and no others."""
    content = bytearray(range(256)) * 20_000
    (here / "a.dat").write_bytes(content)
    shared_mount.cool()
    run_python(
        """
        import sys
        import numpy as np

        array = np.memmap(sys.argv[1], "u1", "r+")
        array[::100_000] = 7
        """,
        here / "a.dat",
    )
    content[::100_000] = b"\7" * len(content[::100_000])
    shared_mount.cool()
    assert (here / "a.dat").read_bytes() == content


def test_memmap_copy_on_write(here: Path) -> None:
    """Elements changed in a private mapping stay private."""
    content = bytes(range(256)) * 1000
    (here / "a.dat").write_bytes(content)
    run_python(
        """
        import sys
        import numpy as np

        array = np.memmap(sys.argv[1], "u1", "c")
        array[:] = 7
        assert (array == 7).all()
        """,
        here / "a.dat",
    )
    assert (here / "a.dat").read_bytes() == content


def test_two_processes_share_a_mapping(here: Path) -> None:
    """Writes of one process to a shared mapping are seen by another before any close."""
    run_python(
        """
        import subprocess, sys
        import numpy as np

        array = np.memmap(sys.argv[1], "i8", "w+", shape=100_000)
        other = "import sys, numpy; numpy.memmap(sys.argv[1], 'i8', 'r+')[::1000] = 5"
        array[99_999] = 3
        subprocess.run([sys.executable, "-c", other, sys.argv[1]], check=True)
        assert array.sum() == 503
        """,
        here / "a.dat",
    )


@pytest.mark.parametrize("mode", ["None", "'r'", "'c'"])
def test_save_and_load(here: Path, shared_mount: Mount, mode: str) -> None:
    """An array saved to a mount loads equal, read or mapped."""
    run_python(
        "import sys, numpy; numpy.save(sys.argv[1], numpy.arange(1_500_000.0))", here / "a.npy"
    )
    shared_mount.cool()
    run_python(
        f"""
        import sys
        import numpy as np

        assert np.array_equal(np.load(sys.argv[1], mmap_mode={mode}), np.arange(1_500_000.0))
        """,
        here / "a.npy",
    )


def test_archive(here: Path, shared_mount: Mount) -> None:
    """Arrays saved to one zip archive load equal."""
    run_python(
        """
        import sys
        import numpy as np

        np.savez(sys.argv[1], a=np.arange(300_000), b=np.eye(500, dtype="f4"))
        """,
        here / "a.npz",
    )
    shared_mount.cool()
    run_python(
        """
        import sys
        import numpy as np

        with np.load(sys.argv[1]) as archive:
            assert np.array_equal(archive["a"], np.arange(300_000))
            assert np.array_equal(archive["b"], np.eye(500, dtype="f4"))
        """,
        here / "a.npz",
    )


def test_offloaded_weights(here: Path) -> None:
    """Weights offloaded as accelerate does it, a mapping each and one index, are found again."""
    run_python(
        """
        import json, sys
        from pathlib import Path
        import numpy as np

        folder, index = Path(sys.argv[1]), {}
        for n in range(20):
            weight = np.full((n + 1, 3000), n, "f2")
            index[f"w{n}"] = {"dtype": "float16", "shape": weight.shape}
            array = np.memmap(folder / f"w{n}.dat", weight.dtype, "w+", shape=weight.shape)
            array[:] = weight[:]
            array.flush()
        (folder / "index.json").write_text(json.dumps(index))
        for name, about in json.loads((folder / "index.json").read_text()).items():
            path, shape = folder / f"{name}.dat", tuple(about["shape"])
            assert (np.memmap(path, about["dtype"], "r", shape=shape) == int(name[1:])).all()
        """,
        here,
    )
