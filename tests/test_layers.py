"""Imports point one way, and each outside library belongs to one layer."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import modelfs

PACKAGE = Path(modelfs.__file__).parent

# From the bottom up. A layer imports from those above it in this list; those of one line do not
# import each other. A name stands for the modules that begin with it, and with no longer name here.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("modelfs.errors", "modelfs.fork_lock", "modelfs.proc", "modelfs.shell_word"),
    ("modelfs.mount_table", "modelfs.file_locks"),
    ("modelfs.formats", "modelfs.codecs"),
    ("modelfs.sketches",),
    ("modelfs.store.disk",),
    ("modelfs.store.index.pages",),
    ("modelfs.store.index",),
    ("modelfs.store.packs",),
    ("modelfs.store.chunks",),
    ("modelfs.store.files",),
    ("modelfs.store",),
    ("modelfs.jobs.steps",),
    ("modelfs.jobs.check",),
    (
        "modelfs.jobs.ingest",
        "modelfs.jobs.optimize",
        "modelfs.jobs.gc",
        "modelfs.jobs.defrag",
        "modelfs.jobs.scrub",
        "modelfs.jobs.repair",
        "modelfs.jobs.inspect",
    ),
    ("modelfs.jobs.drive", "modelfs.jobs.hints", "modelfs.jobs.composed"),
    ("modelfs.reader",),
    ("modelfs.fs.changed",),
    ("modelfs.fs.host", "modelfs.fs.handles"),
    ("modelfs.fs.background",),
    ("modelfs.fs.requests",),
    ("modelfs.fs",),
    ("modelfs.cli",),
    ("modelfs",),
)
RANK = {layer: rank for rank, layers in enumerate(LAYERS) for layer in layers}
MAY_USE_CHECK = ("modelfs.jobs.repair", "modelfs.jobs.scrub")
OUTSIDE = {
    "pyfuse3": "modelfs.fs",
    "trio": "modelfs.fs",
    "lmdb": "modelfs.store.index",
    "click": "modelfs.cli",
    "rich": "modelfs.cli",
}
FLOORS_MAX = 7  # of the rooms of store/

MODULES = sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
        ".__init__"
    )


NAMES = {dotted(path) for path in MODULES}


def layer_of(name: str) -> str:
    """Return the layer with the longest name that a module lies in."""
    while name not in RANK:
        name = name.rpartition(".")[0]
    return name


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted name of every module that `path` imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in NAMES else node.module


IMPORTS = {
    dotted(path): {name for name in imported(path) if name in NAMES and name != dotted(path)}
    for path in MODULES
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    """A module imports from its own layer, from those below it, and no other's library."""
    layer = layer_of(dotted(path))
    for name in imported(path):
        if name in NAMES:
            below = layer_of(name)
            assert below == layer or RANK[below] < RANK[layer], name
            if below == "modelfs.jobs.check" and layer.startswith("modelfs.jobs."):
                assert below == layer or layer in MAY_USE_CHECK, name
            if layer == below == "modelfs.cli":
                both_commands = ".cli.commands." in dotted(path) and ".cli.commands." in name
                assert not both_commands, f"a command that needs another: {name}"
        elif (owner := OUTSIDE.get(name.partition(".")[0])) is not None:
            assert dotted(path).startswith(owner), name


def test_every_layer_is_there() -> None:
    """Layers and modules are the same set: none is unchecked, none has gone unnoticed."""
    assert {layer_of(name) for name in NAMES} == RANK.keys()


def floors(arrows: dict[str, set[str]]) -> dict[str, int]:
    """Return how many floors lie below each name; fail if the arrows run in a circle."""
    heights: dict[str, int] = {}

    def height(name: str, above: tuple[str, ...]) -> int:
        assert name not in above, f"a circle: {[*above[above.index(name) :], name]}"
        if name not in heights:
            heights[name] = max((height(b, (*above, name)) + 1 for b in arrows[name]), default=0)
        return heights[name]

    for name in arrows:
        height(name, ())
    return heights


def test_no_circles() -> None:
    """No module imports itself by way of others."""
    floors(IMPORTS)


def test_the_reader_is_apart() -> None:
    """The Python interface needs the store and inspect's report; no other part needs it."""
    apart = "modelfs.reader"
    below = ("modelfs.errors", "modelfs.formats", "modelfs.store", "modelfs.jobs.inspect")
    for name, imports in IMPORTS.items():
        if name.startswith(apart):
            assert all(each.startswith((apart, *below)) for each in imports), name
        else:
            assert not any(each.startswith(apart) for each in imports), name


def test_store_has_few_floors() -> None:
    """The rooms of store/, folders and files, have an order, and are not stacked high."""

    def room(name: str) -> str:
        return ".".join(name.split(".")[:3])

    arrows: dict[str, set[str]] = {}
    for name, imports in IMPORTS.items():
        if name.startswith("modelfs.store."):
            rooms = {room(below) for below in imports if below.startswith("modelfs.store.")}
            arrows.setdefault(room(name), set()).update(rooms - {room(name)})
    assert max(floors(arrows).values()) < FLOORS_MAX
