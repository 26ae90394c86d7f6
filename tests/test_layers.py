"""Imports point one way, and each outside library belongs to one layer."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import modelfs

PACKAGE = Path(modelfs.__file__).parent

MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"cli"},
    "errors": set(),
    "formats": {"errors"},
    "codecs": {"errors"},
    "store": {"errors", "formats", "codecs"},
    "fs": {"errors", "store"},
    "cli": {"errors", "store", "fs"},
}
PRIVATE = {"pyfuse3": "fs", "trio": "fs", "lmdb": "store", "click": "cli", "rich": "cli"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted name of every module that `path` imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            if node.module == "modelfs":
                yield from (f"modelfs.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    """A module imports from its own layer, from those below it, and no other's library."""
    layer = layer_of(path)
    for name in imported(path):
        root, _, rest = name.partition(".")
        if root == "modelfs":
            assert rest.split(".")[0] in MAY_IMPORT[layer] | {layer}, name
        else:
            assert PRIVATE.get(root, layer) == layer, name


def test_every_layer_is_there() -> None:
    """Layers and modules are the same set: none is unchecked, none has gone unnoticed."""
    assert {layer_of(path) for path in MODULES} == MAY_IMPORT.keys()


def test_layers_have_an_order() -> None:
    """What a layer may import was listed before it, so no cycle can be allowed by mistake."""
    order = ["__init__", "errors", "formats", "codecs", "store", "fs", "cli", "__main__"]
    for layer, below in MAY_IMPORT.items():
        assert all(order.index(name) < order.index(layer) for name in below)
