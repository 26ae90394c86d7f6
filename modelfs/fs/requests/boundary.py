"""The one place where an exception becomes an errno.

pyfuse3 answers the kernel with an errno for `FUSEError` only. Any other exception leaves its
session loop, ends `pyfuse3.main` and takes the mount down.
"""

import errno
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

from pyfuse3 import FUSEError

from modelfs.errors import CorruptData, ModelfsError, StoreFull

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

# The errnos of the backing disk that are passed on. Any other is about a file of the store, such as
# ENOENT, and the program would take it for an error about its own file.
PASSED_ON: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
)


def replies(handler: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Make a request handler raise `FUSEError` and no other exception.

    Cancellation passes through: `trio.Cancelled` is not an `Exception`.
    """

    @functools.wraps(handler)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(*args, **kwargs)
        except FUSEError:
            raise
        except (CorruptData, StoreFull) as exc:
            log.error("%s: %s", handler.__name__, exc)
            raise FUSEError(_passed_on(exc.errno)) from exc
        except ModelfsError as exc:
            raise FUSEError(exc.errno) from exc
        except OSError as exc:
            log.warning("%s: %s", handler.__name__, exc)
            raise FUSEError(_passed_on(exc.errno)) from exc
        except Exception as exc:
            log.exception("%s: bug in handler", handler.__name__)
            raise FUSEError(errno.EIO) from exc

    return wrapper


def _passed_on(error: int | None) -> int:
    return error if error in PASSED_ON else errno.EIO


def silent(handler: Callable[P, Awaitable[None]]) -> Callable[P, Coroutine[Any, Any, None]]:
    """Make a handler that the kernel expects no reply from log its exceptions."""

    @functools.wraps(handler)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await handler(*args, **kwargs)
        except Exception:
            log.exception("%s: bug in handler", handler.__name__)

    return wrapper
