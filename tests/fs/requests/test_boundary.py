"""The errno that each exception becomes."""

import errno
import logging
from collections.abc import Iterator

import pyfuse3
import pytest
import trio
from pyfuse3 import FUSEError

from modelfs.errors import CorruptChunk, CorruptData, ModelfsError, StoreFull
from modelfs.fs.requests.boundary import replies, silent
from modelfs.fs.requests.operations import Operations

ERRNOS = {
    "ModelfsError": errno.EIO,
    "BytesMoved": errno.EIO,
    "NotFound": errno.ENOENT,
    "AlreadyExists": errno.EEXIST,
    "NotADirectory": errno.ENOTDIR,
    "IsADirectory": errno.EISDIR,
    "DirectoryNotEmpty": errno.ENOTEMPTY,
    "NotPermitted": errno.EPERM,
    "InvalidArgument": errno.EINVAL,
    "TooManyLinks": errno.EMLINK,
    "NameTooLong": errno.ENAMETOOLONG,
    "FileTooLarge": errno.EFBIG,
    "AttributeTooLarge": errno.E2BIG,
    "NoAttribute": errno.ENODATA,
    "NotSupported": errno.EOPNOTSUPP,
    "PastData": errno.ENXIO,
    "Interrupted": errno.EINTR,
    "TextBusy": errno.ETXTBSY,
    "NoSlots": errno.EBUSY,
    "StoreFull": errno.ENOSPC,
    "MapFull": errno.ENOSPC,
    "StoreReadOnly": errno.EROFS,
    "StoreBusy": errno.EBUSY,
    "SamePid": errno.EBUSY,
    "StoreNotTrusted": errno.EACCES,
    "IrregularFile": errno.EACCES,
    "NotAStore": errno.EINVAL,
    "UnsupportedFormat": errno.EIO,
    "CorruptData": errno.EIO,
    "CorruptIndex": errno.EIO,
    "DamagedPages": errno.EIO,
    "IndexLost": errno.EIO,
    "FolderMissing": errno.EIO,
    "CorruptPack": errno.EIO,
    "LostBytes": errno.EIO,
    "CorruptChunk": errno.EIO,
}
# Calls without a handler of their own.
LEFT_TO_PYFUSE3 = {"flush", "access", "init", "stacktrace", "poll", "ioctl"}


def kinds(base: type[ModelfsError] = ModelfsError) -> Iterator[type[ModelfsError]]:
    """Yield every class of the package's errors."""
    yield base
    for kind in base.__subclasses__():
        if kind.__module__.startswith("modelfs."):
            yield from kinds(kind)


def made(kind: type[ModelfsError]) -> ModelfsError:
    return CorruptChunk(7, "damaged") if kind is CorruptChunk else kind("what happened")


async def answer_to(error: BaseException) -> BaseException | None:
    """Return the exception that leaves a handler which raises `error`."""

    @replies
    async def handler() -> None:
        raise error

    try:
        await handler()
    except FUSEError as exc:
        return exc
    return None


@pytest.mark.parametrize("kind", [*kinds()], ids=lambda kind: kind.__name__)
async def test_every_error_has_its_errno(
    kind: type[ModelfsError], caplog: pytest.LogCaptureFixture
) -> None:
    """Each class becomes its errno, with its cause; damage and a full disk are logged."""
    error = made(kind)
    answer = await answer_to(error)
    assert isinstance(answer, FUSEError)
    assert answer.errno == ERRNOS[kind.__name__]
    assert answer.__cause__ is error
    logged = [record.levelno for record in caplog.records]
    expected = issubclass(kind, CorruptData | StoreFull)
    assert logged == ([logging.ERROR] if expected else [])
    assert not expected or str(error) in caplog.text
    caplog.clear()


async def test_system_error_keeps_its_errno(caplog: pytest.LogCaptureFixture) -> None:
    """An errno of the backing disk is passed on, and logged."""
    answer = await answer_to(OSError(errno.EDQUOT, "quota"))
    assert isinstance(answer, FUSEError)
    assert answer.errno == errno.EDQUOT
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    caplog.clear()


async def test_system_error_about_the_stores_own_files(caplog: pytest.LogCaptureFixture) -> None:
    """ENOENT about a file of the store becomes EIO, since the program's own file exists."""
    answer = await answer_to(FileNotFoundError(errno.ENOENT, "no such file", "staging/2-0-1"))
    assert isinstance(answer, FUSEError)
    assert answer.errno == errno.EIO
    assert "staging/2-0-1" in caplog.text
    caplog.clear()


async def test_system_error_without_errno(caplog: pytest.LogCaptureFixture) -> None:
    """A system error that has no number becomes EIO."""
    answer = await answer_to(OSError("no number"))
    assert isinstance(answer, FUSEError)
    assert answer.errno == errno.EIO
    caplog.clear()


async def test_fuse_error_passes() -> None:
    """A `FUSEError` passes unchanged."""
    error = FUSEError(errno.ENOSYS)
    assert await answer_to(error) is error


@pytest.mark.parametrize("kind", [KeyError, AssertionError, ValueError, RuntimeError, MemoryError])
async def test_bug_does_not_leave(kind: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    """A bug becomes EIO, and its traceback is in the log."""
    answer = await answer_to(kind("a bug"))
    assert isinstance(answer, FUSEError)
    assert answer.errno == errno.EIO
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is kind
    caplog.clear()


async def test_cancellation_passes() -> None:
    """The cancellation of a request passes unchanged, and is not logged."""

    @replies
    async def handler() -> None:
        await trio.sleep_forever()

    @silent
    async def quiet() -> None:
        await trio.sleep_forever()

    for each in (handler, quiet):
        with trio.CancelScope() as scope:
            scope.cancel()
            await each()
        assert scope.cancelled_caught


async def test_result_passes() -> None:
    """Arguments go in and the result comes out."""

    @replies
    async def handler(one: int, *, two: int) -> tuple[int, int]:
        return one, two

    assert await handler(1, two=2) == (1, 2)


@pytest.mark.parametrize(
    "error", [FUSEError(errno.EIO), StoreFull("full"), OSError(5, "io"), KeyError("bug")]
)
async def test_silent_handlers_swallow(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that cannot report errors logs every exception."""

    @silent
    async def handler() -> None:
        raise error

    await handler()
    assert [record.exc_info is not None for record in caplog.records] == [True]
    caplog.clear()


def test_every_handler_is_behind_the_boundary() -> None:
    """Every handler of pyfuse3 is there, and has `replies` or `silent`."""
    offered = {
        name
        for name, value in vars(pyfuse3.Operations).items()
        if callable(value) and not name.startswith("_")
    }
    guarded = {name for name, value in vars(Operations).items() if hasattr(value, "__wrapped__")}
    assert offered - guarded - LEFT_TO_PYFUSE3 == set()
    assert {name for name in vars(Operations) if name in offered} <= guarded | {"init"}
