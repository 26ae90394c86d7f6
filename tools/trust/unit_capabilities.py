"""Does a mount work with the capabilities that the systemd unit gives its daemon, and no others?

    sudo tools/run trust.unit_capabilities [PYTEST-ARGUMENT ...]

Runs the tests of mounts, or those that the arguments name. setpriv(1) limits each daemon to the
`CapabilityBoundingSet` of systemd/modelfs@.service, without new privileges. Ends as pytest does.
"""

import os
import shlex
import subprocess
import sys

from tests.support.capabilities import limited_to, of_the_unit


def main() -> int:
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    prefix = shlex.join(limited_to(of_the_unit()))
    print(f"daemons run under: {prefix}", flush=True)
    environment = {**os.environ, "MODELFS_TESTS_PREFIX": prefix}
    arguments = sys.argv[1:] or ["tests/mount"]
    return subprocess.call([sys.executable, "-m", "pytest", *arguments], env=environment)


if __name__ == "__main__":
    sys.exit(main())
