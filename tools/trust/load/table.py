"""The printed rows of a load test, and whether all bounds held."""

from collections.abc import Sequence
from typing import Final

from tools.trust.load.probe import Latency
from tools.trust.load.rig import MIB, Rig, Sample

# Beside the cache of decoded chunks, a daemon may take this much memory.
RSS_ALLOWANCE: Final = 200 * MIB


class Table:
    """Rows of a name and a value; `failed` once a row does not hold."""

    def __init__(self) -> None:
        self.failed = False

    def row(self, name: str, value: object, *, holds: bool = True) -> None:
        self.failed |= not holds
        print(f"{name:44} {value}{'' if holds else '    FAILED'}", flush=True)

    def latency(self, what: str, measured: Sequence[Latency]) -> None:
        for where, latency in zip(("mount", "plain folder"), measured, strict=True):
            self.row(f"{what}, probe in {where}", latency)

    def memory(self, rig: Rig, peak: Sample) -> None:
        bound = rig.cache_size + RSS_ALLOWANCE
        value = f"{peak.rss / MIB:.0f} MiB of {bound / MIB:.0f}, {peak.anonymous / MIB:.0f} its own"
        self.row("most memory of the daemon (RSS)", value, holds=peak.rss <= bound)
        self.row("most open files of the daemon", peak.files)
        self.row("most disk of the store", f"{peak.disk / MIB:.0f} MiB")
