"""What `import modelfs` offers: names that are loaded when they are needed, and their types."""

import ast
import doctest
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import modelfs
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.paths import CHECKOUT
from tests.support.run_jobs import ingest_all
from tests.support.stores import FOLDER, ME, new_file

PACKAGE = Path(modelfs.__file__).parent
HEAVY = ("numpy", "lmdb", "click", "rich", "trio", "pyfuse3", "importlib.metadata")
MODULES = sorted(
    "modelfs.reader" + ("" if path.stem == "__init__" else f".{path.stem}")
    for path in (PACKAGE / "reader").glob("*.py")
)
MODEL = (
    (72).to_bytes(8, "little")
    + b'{"embed.weight":{"dtype":"F32","shape":[4,3],"data_offsets":[0,48]}}    '
    + np.arange(12, dtype="<f4").tobytes()
)


def stub() -> dict[str, tuple[str, str]]:
    """Return module and name of each public name, as the stub has them for type checkers."""
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    return {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def stub_all() -> set[str]:
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    (names,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return set(ast.literal_eval(names))


def test_the_names_of_the_interface() -> None:
    """They are these, for programs and for type checkers."""
    expected = {
        "open",
        "create",
        "Reader",
        "File",
        "Tensor",
        "Statistics",
        "FileReport",
        "TensorReport",
        "FormShare",
        "Sharer",
        "Base",
        "ModelfsError",
        "NotAStore",
        "StoreBusy",
        "StoreNotTrusted",
        "UnsupportedFormat",
        "NotFound",
        "NotADirectory",
        "IsADirectory",
        "DirectoryNotEmpty",
        "InvalidArgument",
        "CorruptData",
        "CorruptChunk",
        "LostBytes",
    }
    assert set(vars(modelfs)["_MODULES"]) == stub().keys() == expected
    assert set(modelfs.__all__) == stub_all() == expected | {"__version__"}
    assert expected <= set(dir(modelfs))


@pytest.mark.parametrize("name", sorted(vars(modelfs)["_MODULES"]))
def test_a_name_is_what_its_stub_says(name: str) -> None:
    """Program and type checker mean the same object, and it is kept once it is loaded."""
    module, there = stub()[name]
    assert getattr(modelfs, name) is getattr(import_module(module), there)
    assert vars(modelfs)[name] is getattr(modelfs, name)


def test_the_version() -> None:
    """It is that of the installed package."""
    assert modelfs.__version__ == metadata.version("modelfs")


def test_no_other_names() -> None:
    """Any other name is an AttributeError, as in any module."""
    name = "opne"
    with pytest.raises(AttributeError, match="has no attribute 'opne'"):
        getattr(modelfs, name)


def test_everything_can_be_imported_at_once() -> None:
    """`from modelfs import *` has all names, and `open` is not Python's own then."""
    names: dict[str, object] = {}
    exec("from modelfs import *", names)
    assert set(modelfs.__all__) <= names.keys()
    assert names["open"] is not open


@pytest.mark.parametrize(
    ("code", "loads"),
    [("import modelfs", set()), ("import modelfs; modelfs.NotFound", {"modelfs.errors"})],
)
def test_importing_is_light(code: str, loads: set[str]) -> None:
    """Nothing is loaded that the command line's `--help` would have to wait for."""
    code += "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("modelfs.")} == loads
    assert not {name for name in loaded if name.startswith(HEAVY)}


def test_types_are_shipped() -> None:
    """Each stub, and the marker that there are types, is a file that a wheel gets."""
    tools = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]
    patterns: dict[str, list[str]] = tools["setuptools"]["package-data"]
    files = {PACKAGE / "py.typed", PACKAGE / "__init__.pyi", *PACKAGE.rglob("*.pyi")}
    for path in files:
        package = ".".join(path.parent.relative_to(PACKAGE.parent).parts)
        assert path.is_file()
        assert any(fnmatch(path.name, pattern) for pattern in patterns.get(package, [])), path


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that the examples in docstrings read."""
    path = tmp_path_factory.mktemp("example") / "store"
    modelfs.create(path)
    with Store(path) as store:
        folder = store.namespace.create(ROOT, b"llama", FOLDER, ME).inode
        new_file(store, b"model.safetensors", MODEL, folder)
        new_file(store, b"config.json", b'{"layers": 4}', folder)
        ingest_all(store)
    return path


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings(example: Path, name: str) -> None:
    """Each example prints the shown result."""
    module: ModuleType = import_module(name)
    results = doctest.testmod(module, extraglobs={"example": example})
    assert results.failed == 0


def test_there_are_examples(example: Path) -> None:
    """Each public class has one."""
    found = {
        test.name
        for name in MODULES
        for test in doctest.DocTestFinder().find(import_module(name))
        if test.examples
    }
    assert {"modelfs.reader.reader.Reader", "modelfs.reader.file.File"} <= found
    assert "modelfs.reader.tensor.Tensor" in found
