"""Make the generated parts of the documentation: manual pages, and the options in them.

    tools/run docs [--check]

The session in the README and its picture are made by `tools/run docs.session`.
"""

import argparse
import sys
from pathlib import Path

from tools.docs.man import ROOT, update


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/run docs", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--check", action="store_true", help="change nothing, and name stale files")
    options = parser.parse_args()
    stale = {path: text for path, text in update() if is_stale(path, text)}
    for path, text in stale.items():
        print(path.relative_to(ROOT))
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return 1 if stale and options.check else 0


def is_stale(path: Path, text: str) -> bool:
    return not path.exists() or path.read_text() != text


if __name__ == "__main__":
    sys.exit(main())
