"""All rounds of all works, on all systems in turn."""

import subprocess
import sys
from collections.abc import Sequence

from tools.bench.speed.figures import Results
from tools.bench.speed.turn import WARM_UP, Turn, Volumes, Work
from tools.bench.speed.volumes import System
from tools.mounting import Failed


class Rounds:
    """The rounds, of which the first one warms up and does not count."""

    def __init__(self, systems: Sequence[System], volumes: Volumes, results: Results) -> None:
        self._systems = systems
        self._volumes = volumes
        self._results = results

    def run(self, work: Work) -> None:
        """Do a work in all rounds. A system that fails is left out of the further ones."""
        if problem := work.lacks():
            self._results.notes.append(f"{work.name}: {problem}")
            return
        systems = [system for system in self._systems if work.suits(system)]
        for number in range(WARM_UP, self._volumes.sources.settings.rounds + 1):
            say(f"{work.title}, round {number or 'that warms up'}")
            # Backwards in each second round: none is always the first after the same one.
            for system in systems[:: 1 if number % 2 else -1]:
                if not self._measured(work, system, number):
                    systems.remove(system)

    def _measured(self, work: Work, system: System, number: int) -> bool:
        """Measure once, and return whether that went well."""
        try:
            work.measure(Turn(system, number, self._volumes, self._results))
        except (Failed, OSError, subprocess.CalledProcessError) as exc:
            place = f"{work.title}, {system.name}"
            say(f"{place}: {exc}")
            self._results.failed.append(f"{place}: {str(exc).strip().splitlines()[-1]}")
            return False
        return True


def say(text: str) -> None:
    print(f"tools/run bench.speed: {text}", file=sys.stderr, flush=True)
