"""Optimizing a mounted store: with readers, interrupted, and with a killed daemon."""

import hashlib
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.mounts import (
    DEADLINE,
    MODELFS,
    Mount,
    drop_kernel_caches,
    modelfs,
    run_python,
    wait_until,
)
from tests.support.paths import MODELS

pytestmark = pytest.mark.mount

FAMILY = sorted(MODELS.glob("*.*"))


def copy_in(mount: Mount) -> None:
    for source in FAMILY:
        (mount.path / source.name).write_bytes(source.read_bytes())
    modelfs("sync", mount.path)


def check(mount: Mount) -> None:
    drop_kernel_caches()
    for source in FAMILY:
        here = (mount.path / source.name).read_bytes()
        assert hashlib.sha256(here).digest() == hashlib.sha256(source.read_bytes()).digest()


def test_every_file_reads_as_it_was_written(mount: Mount) -> None:
    """A family takes a third of its room, and programs read the same bytes as before."""
    copy_in(mount)
    before = mount.stats()["stored_bytes"]
    modelfs("optimize", mount.path)
    after = mount.stats()
    assert after["stored_bytes"] < 0.7 * before
    assert {"planes", "delta", "cast", "transpose"} <= set(after["forms"])
    check(mount)
    mount.stop()
    mount.start()
    check(mount)


def test_frameworks_read_derived_models(mount: Mount) -> None:
    """Safetensors and onnxruntime load models that are deltas, casts and transposes."""
    copy_in(mount)
    modelfs("optimize", mount.path)
    drop_kernel_caches()
    compared = run_python(
        """
        import sys
        import numpy
        import onnxruntime
        from safetensors.numpy import load_file

        mounted, plain = sys.argv[1:]
        for name in ("finetune", "base", "base-f16", "lora-merged"):
            one, other = (load_file(f"{root}/{name}.safetensors") for root in (mounted, plain))
            assert all(numpy.array_equal(one[key], other[key]) for key in other)
        ids = numpy.arange(5)
        for name in ("base", "base-external"):
            answers = [
                onnxruntime.InferenceSession(f"{root}/{name}.onnx").run(None, {"ids": ids})[0]
                for root in (mounted, plain)
            ]
            assert numpy.array_equal(*answers)
        print("same")
        """,
        mount.path,
        MODELS,
    )
    assert compared == "same\n"


def test_ctrl_c_stops_it(mount: Mount) -> None:
    """The command ends at once, the mount stays, and the rest is done the next time."""
    copy_in(mount)
    before = mount.stats()["files_to_optimize"]
    command = subprocess.Popen(
        [*MODELFS, "optimize", mount.path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_until(lambda: mount.stats()["files_to_optimize"] < before or command.poll() is not None)
    command.send_signal(signal.SIGINT)
    _, problem = command.communicate(timeout=DEADLINE)
    # At its very end Python restores the signal's default action, which is 130 for a shell, too.
    assert command.returncode in (0, 130, -signal.SIGINT)
    assert b"Traceback" not in problem
    check(mount)
    modelfs("optimize", mount.path)
    assert mount.stats()["files_to_optimize"] == 0
    check(mount)


def test_a_killed_daemon_leaves_a_clean_store(mount: Mount) -> None:
    """After a kill at any moment, the store opens, is sound, and optimizing continues."""
    copy_in(mount)
    for delay in (0.05, 0.2, 0.4):
        command = subprocess.Popen(
            [*MODELFS, "optimize", mount.path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        mount.kill(after=delay)
        command.communicate(timeout=DEADLINE)
        modelfs("fsck", "--data", mount.store)
        mount.start()
        check(mount)
    modelfs("optimize", mount.path)
    check(mount)


def test_it_goes_on_beside_writers(mount: Mount, tmp_path: Path) -> None:
    """Files that come and go while it runs are neither harmed nor in its way."""
    copy_in(mount)
    command = subprocess.Popen([*MODELFS, "optimize", mount.path], stdout=subprocess.DEVNULL)
    data = (MODELS / "finetune.safetensors").read_bytes()
    for number in range(10):
        (mount.path / f"copy-{number}").write_bytes(data)
        if number % 2:
            (mount.path / f"copy-{number}").unlink()
    wait_until(lambda: command.poll() is not None)
    assert command.returncode == 0
    check(mount)
    for number in range(0, 10, 2):
        assert (mount.path / f"copy-{number}").read_bytes() == data
