"""The works of the benchmark of speed: every one on plain folders, and wrong bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.support.paths import MODELS
from tools.bench.speed import sources as sources_module
from tools.bench.speed import turn as turns
from tools.bench.speed import ways
from tools.bench.speed.clock import laps
from tools.bench.speed.figures import PLAIN, Figure, Results, Unit
from tools.bench.speed.reading import Reading
from tools.bench.speed.rounds import Rounds
from tools.bench.speed.sources import MANY, Settings, Sources, make
from tools.bench.speed.turn import Turn, Volumes, Work, compare
from tools.bench.speed.volumes import PlainFolder, System, plain_system
from tools.bench.speed.works import works
from tools.bench.speed.writing import WRITING
from tools.mounting import Failed

SETTINGS = Settings(size=1, rounds=1, files=12, extents=300, chunks=1500, family=MODELS)
[CP] = (work for work in WRITING if work.name == "cp")
NAMES = sorted({work.name for work in works(SETTINGS)})


@pytest.fixture
def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volumes:
    # The caches are those of other tests, too.
    monkeypatch.setattr(turns, "drop_kernel_caches", lambda: None)
    return Volumes(tmp_path / "volumes", Sources(tmp_path / "sources", SETTINGS), print)


def run(volumes: Volumes, work: Work, *systems: System) -> Results:
    results = Results()
    Rounds(systems, volumes, results).run(work)
    return results


@pytest.mark.parametrize("name", NAMES)
def test_on_a_plain_folder(volumes: Volumes, name: str) -> None:
    """Each work does all of its amount there, with right bytes, and each figure is positive."""
    for work in works(SETTINGS):
        if work.name == name and work.suits(plain_system()):
            results = run(volumes, work, plain_system())
            assert results.failed == []
            assert results.figures or work.lacks() or name == "mount"
            for figure in results.figures.values():
                [sample] = results.of(figure.name, PLAIN)
                assert sample.value > 0 or figure.unit is Unit.SHARE


class Spoiled(PlainFolder):
    """A folder in which the last byte of each file changes."""

    def settle(self) -> None:
        for path in self.path.iterdir():
            _spoil(path)

    def fill(self, source: Path, *, optimized: bool) -> None:
        self.path.mkdir()
        for path in source.iterdir():
            (self.path / path.name).write_bytes(path.read_bytes())
        self.settle()


def _spoil(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("work", [CP, Reading("read", ways.READ)], ids=["written", "read"])
def test_wrong_bytes(volumes: Volumes, work: Work) -> None:
    """A system whose bytes are wrong has no samples and is named; the others are measured."""
    results = run(volumes, work, plain_system(), System("spoiled", Spoiled))
    assert [line.split(":")[0] for line in results.failed] == [f"{work.name}, spoiled"]
    assert "came back wrong" in results.failed[0]
    assert results.figures
    for name in results.figures:
        assert len(results.of(name, PLAIN)) == 1
        assert results.of(name, "spoiled") == []


def test_compare_names_the_file(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "volume"
    source.mkdir()
    folder.mkdir()
    (source / "model").write_bytes(b"weights")
    volume = Spoiled(folder)
    volume.fill(source, optimized=False)
    with pytest.raises(Failed, match="model came back wrong"):
        compare(volume, source)
    _spoil(volume.path / "model")
    compare(volume, source)


def test_turns_alternate(volumes: Volumes) -> None:
    """In the second round the systems come in the other order, and a failed one comes no more."""
    order = []

    @dataclass(frozen=True, slots=True)
    class Noted(Work):
        def measure(self, turn: Turn) -> None:
            order.append(turn.system.name)
            turn.note(Figure("figure", Unit.TIME), 1.0)
            if turn.system.name == "c":
                raise Failed("no more of it")

    results = run(volumes, Noted("noted"), *(System(name, PlainFolder) for name in "abc"))
    assert "".join(order) == "cbaab"
    assert [len(results.of("figure", name)) for name in "abc"] == [1, 1, 0]
    assert results.failed == ["noted, c: no more of it"]


def test_laps_are_from_the_begin() -> None:
    """Each lap has the time from the begin of the first step."""
    first, second = laps([lambda: 5, lambda: None], 5, None)
    assert 0 < first.seconds <= second.seconds


def fail() -> int:
    raise ValueError("a broken step")


@pytest.mark.parametrize(
    ("step", "problem"),
    [(lambda: 4, "4 came back where 5 were expected"), (fail, "a broken step")],
)
def test_a_wrong_step(step: Callable[[], int], problem: str) -> None:
    """A step that fails, or that does less than the amount, is an error."""
    with pytest.raises(Failed, match=problem):
        laps([step], 5, None)


def test_many_chunks_are_distinct(volumes: Volumes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors of a store of many chunks are so many, and no two are equal."""
    monkeypatch.setattr(sources_module, "MODEL_CHUNKS", 400)
    files = sorted(volumes.sources.library(MANY).glob("chunks-*"))
    tensors = [tensor.tobytes() for file in files for tensor in load_file(file).values()]
    assert len(files) == 4
    assert len(tensors) == len(set(tensors)) == SETTINGS.chunks


@pytest.mark.parametrize("mib", [1, 16, 40])
def test_a_model_has_about_its_size(tmp_path: Path, mib: int) -> None:
    """It is the size in MiB, down to whole tensors."""
    make(tmp_path / "model", mib)
    tensors = load_file(tmp_path / "model").values()
    assert sum(tensor.nbytes for tensor in tensors) >> 20 == max(mib // 16 * 16, min(mib, 16))
