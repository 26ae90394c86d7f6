"""The folders of the tests' data."""

from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[2]
TESTS: Final = CHECKOUT / "tests"

DATA: Final = TESTS / "data"
MODELS: Final = DATA / "minilm-slice"  # a small family of real models
TORCH: Final = DATA / "torch"  # files of torch.save, of several versions

# Bytes written by releases. They are never generated again.
STORE_GOLDEN: Final = TESTS / "golden" / "store"
CODECS_GOLDEN: Final = TESTS / "codecs" / "golden"
FORMATS_GOLDEN: Final = TESTS / "formats" / "golden"

FUZZ_CORPUS: Final = TESTS / "fuzz" / "corpus"
