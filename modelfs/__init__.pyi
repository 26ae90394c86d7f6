from modelfs.errors import CorruptChunk as CorruptChunk
from modelfs.errors import CorruptData as CorruptData
from modelfs.errors import DirectoryNotEmpty as DirectoryNotEmpty
from modelfs.errors import InvalidArgument as InvalidArgument
from modelfs.errors import IsADirectory as IsADirectory
from modelfs.errors import LostBytes as LostBytes
from modelfs.errors import ModelfsError as ModelfsError
from modelfs.errors import NotADirectory as NotADirectory
from modelfs.errors import NotAStore as NotAStore
from modelfs.errors import NotFound as NotFound
from modelfs.errors import StoreBusy as StoreBusy
from modelfs.errors import StoreNotTrusted as StoreNotTrusted
from modelfs.errors import UnsupportedFormat as UnsupportedFormat
from modelfs.jobs.inspect.report import Base as Base
from modelfs.jobs.inspect.report import FileReport as FileReport
from modelfs.jobs.inspect.report import FormShare as FormShare
from modelfs.jobs.inspect.report import Sharer as Sharer
from modelfs.jobs.inspect.report import TensorReport as TensorReport
from modelfs.reader.entry import create as create
from modelfs.reader.entry import open as open  # noqa: A004 - as in `modelfs.open`
from modelfs.reader.file import File as File
from modelfs.reader.reader import Reader as Reader
from modelfs.reader.tensor import Tensor as Tensor
from modelfs.store.statistics import Statistics as Statistics

__version__: str
__all__ = [
    "Base",
    "CorruptChunk",
    "CorruptData",
    "DirectoryNotEmpty",
    "File",
    "FileReport",
    "FormShare",
    "InvalidArgument",
    "IsADirectory",
    "LostBytes",
    "ModelfsError",
    "NotADirectory",
    "NotAStore",
    "NotFound",
    "Reader",
    "Sharer",
    "Statistics",
    "StoreBusy",
    "StoreNotTrusted",
    "Tensor",
    "TensorReport",
    "UnsupportedFormat",
    "__version__",
    "create",
    "open",
]
