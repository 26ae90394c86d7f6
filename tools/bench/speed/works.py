"""All works, in the order of the table."""

from typing import Final

from tools.bench.speed.copies import Twice, Within
from tools.bench.speed.large import Chunks, Extents, Mounting
from tools.bench.speed.reading import PLAIN_READING, of_family, of_forms
from tools.bench.speed.small_files import Checkout, Create
from tools.bench.speed.sources import Settings
from tools.bench.speed.turn import Work
from tools.bench.speed.writing import WRITING

LARGE: Final = "chunks"  # takes minutes to make


def works(settings: Settings) -> list[Work]:
    """Return all works."""
    return [
        *WRITING,
        Twice("twice"),
        Within("within"),
        *PLAIN_READING,
        *of_forms(),
        *of_family(settings.family),
        Create("create"),
        Checkout("git"),
        Mounting("mount"),
        Extents("extents"),
        Chunks(LARGE),
    ]
