"""The types of the fixture `make` of `tests/reader`, which fills a store and opens a reader."""

from collections.abc import Callable

import modelfs
from modelfs.store.store import Store

Fill = Callable[[Store], object]
Make = Callable[[Fill], modelfs.Reader]
