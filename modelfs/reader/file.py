"""Regular files of a store."""

import io
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, overload

from modelfs.jobs.inspect.report import FileReport
from modelfs.reader.connection import Connection
from modelfs.reader.file_reader import FileReader, NamedSpans, writable
from modelfs.reader.tensor import Tensor
from modelfs.store.index.tables import InodeNumber


class File:
    """A regular file of a store. Comes from `Reader.files` and `Reader[path]`.

    It stays the same file when it is renamed, and when another file gets its name. Nothing is read
    ahead.

    >>> import modelfs
    >>> file = modelfs.open(example)["llama/model.safetensors"]
    >>> file.size, file.format
    (128, 'safetensors')
    >>> file.pread(offset=8, size=14)
    b'{"embed.weight'
    >>> list(file.tensors)
    ['embed.weight']

    Attributes:
        path: from the top of the store, without a leading slash.
    """

    def __init__(self, connection: Connection, path: str, inode: InodeNumber) -> None:
        self.path = path
        self._reader = FileReader(connection, path, inode)
        self._tensors: tuple[NamedSpans, dict[str, Tensor]] | None = None

    def __reduce__(self) -> tuple[type["File"], tuple[Connection, str, InodeNumber]]:
        return type(self), self._reader.key

    def __repr__(self) -> str:
        return repr(self._reader)

    def __eq__(self, other: object) -> bool:
        """Whether it is the same file of the same store; a file with several names is one."""
        return isinstance(other, File) and self._reader.identity == other._reader.identity

    def __hash__(self) -> int:
        return hash(self._reader.identity)

    @property
    def size(self) -> int:
        """Length in bytes.

        Raises:
            NotFound: the file was removed.
        """
        return self._reader.size()

    @property
    def format(self) -> str:
        """As `modelfs inspect` names it: "plain", "safetensors", "onnx", "onnx_data" or "torch".

        Raises:
            NotFound: the file was removed.
        """
        return self._reader.named().format.name.lower()

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors by name, in file order, as of the last commit. Empty if the file is no model.

        Of tensors with the same name only the first is listed. A PyTorch file has storages, as they
        lie in memory, each under the name of the first tensor that uses it. A data file of ONNX has
        tensors once the file and its model are in chunks, as after `modelfs sync`.

        Raises:
            NotFound: the file was removed.
        """
        named = self._reader.named()
        if (cached := self._tensors) is not None and cached[0] is named:
            return cached[1]
        tensors = {span.name: Tensor(self._reader, span) for span in named.spans.values()}
        self._tensors = named, tensors
        return tensors

    def pread(self, *, offset: int = 0, size: int | None = None) -> bytes:
        """Return bytes from `offset` on: `size` of them, fewer at the end of the file.

        All bytes are of one commit, except that bytes overwritten in place may show early until
        the file is in chunks. Without a size, all up to the end of the file.

        Raises:
            ValueError: a negative offset or size, or the reader is closed.
            NotFound: the file was removed.
            CorruptChunk: some of the bytes are damaged; the message names the file.
            LostBytes: the disk has lost some of the bytes; the message names the file.
            OSError: the disk failed.
        """
        return self._reader.read(offset, size)

    def read_into(self, offset: int, buffer: Any) -> int:
        """Fill a buffer from `offset` on, and return the number of bytes read.

        After an error the buffer's content is undefined.

        Raises:
            TypeError: the buffer is read-only, or not contiguous in C order.
            ValueError, NotFound, CorruptChunk, LostBytes, OSError: as `pread`.
        """
        return self._reader.read_into(offset, writable(buffer))

    # The overlap: a variable whose value is 0.
    @overload
    def open(self, *, buffering: Literal[0]) -> io.RawIOBase: ...  # type: ignore[overload-overlap]

    @overload
    def open(self, *, buffering: int = ...) -> io.BufferedReader: ...

    def open(self, *, buffering: int = io.DEFAULT_BUFFER_SIZE) -> io.RawIOBase | io.BufferedReader:
        """Return a seekable, read-only stream of the file's bytes.

        Args:
            buffering: bytes that are read at once for smaller reads; 0: an unbuffered stream, each
                read of which is one `pread`.

        Raises:
            ValueError: `buffering` is negative, or the reader is closed.
            NotFound: the file was removed.
        """
        self._reader.size()  # raises
        return io.BufferedReader(_Stream(self), buffering) if buffering else _Stream(self)

    def report(self) -> FileReport:
        """Return the report of `modelfs inspect`: how the file is stored, and its shared bytes.

        Its paths have no leading slash, as `path`.
        Takes seconds in a large store, and a fork(2) meanwhile waits for it.

        Raises:
            NotFound: the file was removed.
        """
        return self._reader.report()


class _Stream(io.RawIOBase):
    """A file of a store as a raw, seekable stream."""

    def __init__(self, file: File) -> None:
        super().__init__()
        self.name = file.path
        self.mode = "rb"
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check_open()
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._check_open()
        if whence not in (io.SEEK_SET, io.SEEK_CUR, io.SEEK_END):
            raise ValueError(f"whence is {whence}")
        if whence != io.SEEK_SET:
            offset += self._at if whence == io.SEEK_CUR else self._file.size
        if offset < 0:
            raise ValueError(f"seek to {offset}")
        self._at = offset
        return offset

    def write(self, data: Any, /) -> NoReturn:
        raise io.UnsupportedOperation("not writable")

    # Besides `readinto`: the inherited `read` copies, and `readall` reads 8 KiB at a time.

    def readinto(self, buffer: Any, /) -> int:
        self._check_open()
        size = self._file.read_into(self._at, buffer)
        self._at += size
        return size

    def read(self, size: int | None = -1, /) -> bytes:
        self._check_open()
        wanted = None if size is None or size < 0 else size
        data = self._file.pread(offset=self._at, size=wanted)
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on a closed file")
