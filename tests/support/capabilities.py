"""Daemons that have no other capabilities than those of the systemd unit."""

import re
from typing import Final

from tests.support.paths import CHECKOUT

UNIT: Final = CHECKOUT / "systemd/modelfs@.service"


def limited_to(capabilities: list[str]) -> list[str]:
    """Return a command that runs another one with these capabilities."""
    names = [f"+{name.removeprefix('CAP_').lower()}" for name in capabilities]
    return [
        "setpriv",
        f"--bounding-set=-all,{','.join(names)}",
        "--inh-caps=-all",
        "--no-new-privs",
    ]


def of_the_unit() -> list[str]:
    """Return the capabilities of the unit."""
    (line,) = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
    return str(line).split()
