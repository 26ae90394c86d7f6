"""The one place where an exception becomes an errno.

pyfuse3 answers the kernel for `FUSEError` only. Anything else leaves its session loop,
ends `pyfuse3.main` and takes the mount down with it.
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

# What the backing disk says is passed on. Any other errno is about a file of the store, such as a
# missing one, and would be taken for something about the caller's own.
PASSED_ON: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
)


def replies(handler: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Make a request handler raise nothing but `FUSEError`.

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
            raise FUSEError(exc.errno) from exc
        except ModelfsError as exc:
            raise FUSEError(exc.errno) from exc
        except OSError as exc:
            log.warning("%s: %s", handler.__name__, exc)
            raise FUSEError(_shown(exc)) from exc
        except Exception as exc:
            log.exception("%s: bug in handler", handler.__name__)
            raise FUSEError(errno.EIO) from exc

    return wrapper


def _shown(exc: OSError) -> int:
    return exc.errno if exc.errno in PASSED_ON else errno.EIO


def silent(handler: Callable[P, Awaitable[None]]) -> Callable[P, Coroutine[Any, Any, None]]:
    """Do the same for a handler that cannot report errors at all: it logs them."""

    @functools.wraps(handler)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await handler(*args, **kwargs)
        except Exception:
            log.exception("%s: bug in handler", handler.__name__)

    return wrapper
