"""Tests lie where their modules do; their helpers have names of their own."""

from pathlib import Path
from typing import Final

import pytest

import modelfs

PACKAGE: Final = Path(modelfs.__file__).parent
TESTS: Final = Path(__file__).parent

# Folders of scenarios and of properties of the whole, and those of other parts of the project.
NO_MIRROR: Final = ("docs", "fuzz", "mount", "properties", "tools")
# Files that are named for a scenario, or for a contract that several modules keep.
SCENARIOS: Final = frozenset(
    {
        "test_layers.py",
        "test_mirror.py",
        "test_prose.py",
        "test_public_names.py",
        "codecs/test_codecs.py",
        "codecs/test_tensors.py",
        "formats/test_memory.py",
        "fs/background/test_defrag.py",
        "fs/test_long_work.py",
        "jobs/check/test_beside_a_writer.py",
        "jobs/ingest/test_slices.py",
        "jobs/ingest/test_torch.py",
        "jobs/repair/test_every_byte.py",
        "jobs/repair/test_lineage.py",
        "jobs/repair/test_random.py",
        "jobs/test_damaged_rows.py",
        "reader/test_forks.py",
        "store/files/test_divided_files.py",
    }
)
# Modules that are tested only through others. The list may become shorter, and never longer: lower
# the number with it.
WITHOUT_TESTS_MAX: Final = 28
WITHOUT_TESTS: Final = frozenset(
    {
        "cli/findings.py",
        "cli/fusermount.py",
        "cli/mount_users.py",
        "codecs/base.py",
        "codecs/kernels/casts_numpy.py",
        "codecs/kernels/delta_numpy.py",
        "codecs/kernels/delta_streams.py",
        "codecs/kernels/planes_numpy.py",
        "formats/layout.py",
        "formats/names.py",
        "formats/onnx/schema.py",
        "formats/onnx/tensor.py",
        "formats/torch/pickle_machine.py",
        "formats/torch/pickle_objects.py",
        "formats/torch/pickle_opcodes.py",
        "formats/torch/pickle_values.py",
        "formats/torch/storage.py",
        "fs/background/context.py",
        "fs/commands.py",
        "jobs/check/findings.py",
        "jobs/check/inode_totals.py",
        "jobs/check/pages.py",
        "jobs/inspect/report.py",
        "jobs/repair/context.py",
        "jobs/repair/pack_rows.py",
        "jobs/repair/superblock.py",
        "reader/layout.py",
        "store/index/tensor_records.py",
    }
)
FILES: Final = [
    path
    for path in sorted(TESTS.rglob("test_*.py"))
    if path.relative_to(TESTS).parts[0] not in NO_MIRROR
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_each_file_is_named_for_its_module(path: Path) -> None:
    """A file of tests has the place and the name of a module, or is listed as a scenario."""
    name = path.relative_to(TESTS)
    module = PACKAGE / name.parent / name.name.removeprefix("test_")
    assert module.is_file() != (str(name) in SCENARIOS), module


def test_each_module_has_tests() -> None:
    """A module has a file of tests, or is on the list of those that have none yet."""
    modules = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
    without = {
        str(name)
        for name in modules
        if not name.name.startswith("__")
        and not (TESTS / name.parent / f"test_{name.name}").is_file()
    }
    assert without - WITHOUT_TESTS == set(), "write tests for these"
    assert WITHOUT_TESTS - without == set(), "take these from the list"
    assert len(WITHOUT_TESTS) <= WITHOUT_TESTS_MAX, "write tests instead"


def test_every_scenario_is_there() -> None:
    """The list of scenarios names no file that is gone."""
    assert {name for name in SCENARIOS if not (TESTS / name).is_file()} == set()


def test_no_helper_has_the_name_of_a_module() -> None:
    """A module of `tests/support` is not named like one that it helps to test."""
    modules = {path.stem for path in PACKAGE.rglob("*.py")}
    helpers = {path.stem for path in (TESTS / "support").rglob("*.py")}
    assert helpers & modules == set()


def test_no_test_is_a_helper() -> None:
    """Files of tests import from the package and from `tests/support`, not from each other."""
    for path in sorted(TESTS.rglob("*.py")):
        for line in path.read_text().splitlines():
            if line.startswith("from tests."):
                assert line.split()[1].split(".")[1] in ("support", "fuzz"), (path, line)
