from modelfs.errors import CorruptChunk as CorruptChunk
from modelfs.errors import CorruptData as CorruptData
from modelfs.errors import ModelfsError as ModelfsError
from modelfs.errors import NotAStore as NotAStore
from modelfs.errors import NotFound as NotFound
from modelfs.errors import StoreBusy as StoreBusy
from modelfs.errors import UnsupportedFormat as UnsupportedFormat
from modelfs.jobs.inspect.report import FileReport as FileReport
from modelfs.jobs.inspect.report import TensorReport as TensorReport
from modelfs.reader.file import File as File
from modelfs.reader.reader import Reader as Reader
from modelfs.reader.reader import create as create
from modelfs.reader.reader import open as open  # noqa: A004 - as in `modelfs.open`
from modelfs.reader.tensor import Tensor as Tensor
from modelfs.store.statistics import Statistics as Statistics

__version__: str
__all__ = [
    "CorruptChunk",
    "CorruptData",
    "File",
    "FileReport",
    "ModelfsError",
    "NotAStore",
    "NotFound",
    "Reader",
    "Statistics",
    "StoreBusy",
    "Tensor",
    "TensorReport",
    "UnsupportedFormat",
    "__version__",
    "create",
    "open",
]
