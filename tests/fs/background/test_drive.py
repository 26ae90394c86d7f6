"""The driver of a mounted store: rights between jobs, jobs inside jobs, and cancellation.

The contract that both drivers keep is in `tests/jobs/test_drive.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from modelfs.errors import NotFound, StoreFull
from modelfs.fs.background.drive import Driver
from modelfs.fs.background.pack_lock import PackLock
from modelfs.jobs.steps import (
    Commit,
    Job,
    Pause,
    Right,
    Step,
    Work,
    appending,
    exclusive,
    pausing,
    unless_pinned,
)
from modelfs.store.index.tables import ROOT
from tests.support.served_store import Failing, Held
from tests.support.stores import Box, new_file

HOLDS: Final[dict[Right, Callable[[Job[Any]], Job[Any]]]] = {
    Right.APPEND: appending,
    Right.EXCLUSIVE: exclusive,
    Right.UNLESS_PINNED: unless_pinned,
}
every_right = pytest.mark.parametrize("right", Right, ids=lambda right: right.name)


class Log:
    """The events of jobs, in their order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def job(self, name: str, *steps: Step) -> Job[str]:
        """Return a job that executes steps, and notes its beginning, its error and its end."""
        self.events.append(f"{name} waits")
        return self._job(name, steps)

    def _job(self, name: str, steps: tuple[Step, ...]) -> Job[str]:
        self.events.append(f"{name} begins")
        try:
            yield from steps
        except BaseException as exc:
            self.events.append(f"{name} gets {type(exc).__name__}")
            raise
        finally:
            self.events.append(f"{name} ends")
        return name


@pytest.fixture
def log() -> Log:
    return Log()


async def run_until_cancelled(driver: Driver, job: Job[object], scope: trio.CancelScope) -> None:
    with scope:
        await driver.run(job)


# -- rights


def test_every_right_has_a_way_to_ask_for_it() -> None:
    """A right that is added has to be held by the driver, too: add it here."""
    assert HOLDS.keys() == {*Right}


@pytest.mark.parametrize("first", Right, ids=lambda right: right.name)
@pytest.mark.parametrize("second", Right, ids=lambda right: right.name)
async def test_rights_exclude_each_other(
    driver: Driver, log: Log, first: Right, second: Right
) -> None:
    """While a job has any right, another one with a right waits, also during its slow calls."""
    call = Held(lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.run, HOLDS[first](log.job("first", Work(call), Pause())))
        await call.reached.wait()
        nursery.start_soon(driver.run, HOLDS[second](log.job("second", Pause())))
        await wait_all_tasks_blocked()
        assert log.events == ["first waits", "first begins", "second waits"]
        call.let_go()
    assert log.events[3:] == ["first ends", "second begins", "second ends"]


@every_right
async def test_a_job_without_a_right_goes_on(driver: Driver, log: Log, right: Right) -> None:
    """A job that needs no right runs beside one that has it, and so does the rest of that job."""
    call = Held(lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.run, HOLDS[right](log.job("first", Work(call))))
        await call.reached.wait()
        assert await driver.run(log.job("second", Pause(), Pause())) == "second"
        assert log.events[-1] == "second ends"
        call.let_go()


@every_right
async def test_a_right_lasts_as_long_as_its_job(driver: Driver, log: Log, right: Right) -> None:
    """Between two parts with a right, another job gets it."""

    def job() -> Job[None]:
        for number in (1, 2):
            yield from HOLDS[right](log.job(f"part {number}", Pause()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.run, job())
        await trio.lowlevel.checkpoint()
        nursery.start_soon(driver.run, exclusive(log.job("other", Pause())))
    begun = [event for event in log.events if event.endswith("begins")]
    ended = [event for event in log.events if event.endswith("ends")]
    assert sorted(begun) == ["other begins", "part 1 begins", "part 2 begins"]
    assert [event.split()[:-1] for event in begun] == [event.split()[:-1] for event in ended]


async def test_rights_are_those_of_the_pack_lock(driver: Driver, pack_lock: PackLock) -> None:
    """While packs are pinned, jobs append; those that delete packs wait, or are left out."""
    done: list[str] = []

    def part(name: str) -> Job[str]:
        yield Work(partial(done.append, name))
        return name

    async with trio.open_nursery() as nursery, pack_lock.pinned():
        nursery.start_soon(driver.run, exclusive(part("waits")))
        assert await driver.run(unless_pinned(part("left out"))) is None
        assert await driver.run(appending(part("appends"))) == "appends"
        await wait_all_tasks_blocked()
        assert done == ["appends"]
    assert await driver.run(unless_pinned(part("last"))) == "last"
    assert done == ["appends", "waits", "last"]


async def test_a_job_cancelled_while_it_waits_for_a_right_leaves_it_to_others(
    driver: Driver, pack_lock: PackLock
) -> None:
    """A job that is cancelled before it has the right does nothing, and cleans up around it."""
    events: list[str] = []

    def part() -> Job[None]:
        events.append("ran")
        yield Pause()

    def job() -> Job[None]:
        try:
            yield from exclusive(part())
        finally:
            events.append("cleaned up")

    async with pack_lock.pinned():
        with trio.move_on_after(0.01) as scope:
            await driver.run(job())
    assert scope.cancelled_caught
    assert events == ["cleaned up"]
    await driver.run(exclusive(pausing([None])))


async def test_a_pin_leaves_a_job_out_without_its_first_step(
    driver: Driver, pack_lock: PackLock, log: Log
) -> None:
    """A job that is left out does not begin, and the job around it gets None and goes on."""

    def job() -> Job[list[str | None]]:
        left_out = yield from unless_pinned(log.job("left out", Pause()))
        appended = yield from appending(log.job("appends", Pause()))
        return [left_out, appended]

    async with pack_lock.pinned():
        assert await driver.run(job()) == [None, "appends"]
    assert "left out begins" not in log.events


@every_right
async def test_an_error_frees_the_right_after_the_cleanup(
    driver: Driver, log: Log, right: Right
) -> None:
    """The job that fails cleans up while it still has the right; then the next one begins."""
    error = OSError(5, "broken")
    call = Held(Failing(lambda: None, error))
    failed: list[BaseException] = []

    async def drive() -> None:
        try:
            await driver.run(HOLDS[right](log.job("first", Work(call))))
        except OSError as exc:
            failed.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drive)
        await call.reached.wait()
        nursery.start_soon(driver.run, exclusive(log.job("second", Pause())))
        await wait_all_tasks_blocked()
        call.let_go()
    assert failed == [error]
    assert log.events[3:] == ["first gets OSError", "first ends", "second begins", "second ends"]


# -- jobs inside jobs


async def test_a_step_of_an_inner_job_is_handled_by_the_innermost(driver: Driver) -> None:
    """Of three jobs inside each other, that which yields the step gets the exception first."""
    error = StoreFull("full")

    def inner() -> Job[str]:
        try:
            yield Work(Failing(lambda: None, error))
        except StoreFull as exc:
            return "handled" if exc is error else "another error"
        return "no error"

    def middle() -> Job[str]:
        yield Pause()
        return (yield from inner())

    def outer() -> Job[tuple[str, str]]:
        with_right = yield from appending(middle())
        return with_right, (yield from middle())

    assert await driver.run(outer()) == ("handled", "handled")


async def test_an_error_passes_all_jobs_from_the_inside(driver: Driver, log: Log) -> None:
    """An exception that no job handles ends each of them in turn, and reaches the caller."""
    error = KeyError("a bug")

    def outer() -> Job[str]:
        try:
            return (yield from exclusive(log.job("inner", Work(Failing(lambda: None, error)))))
        finally:
            log.events.append("outer ends")

    with pytest.raises(KeyError) as caught:
        await driver.run(outer())
    assert caught.value is error
    assert log.events[2:] == ["inner gets KeyError", "inner ends", "outer ends"]


async def test_a_commit_with_a_right_is_durable(driver: Driver, box: Box) -> None:
    """A commit step of a job with a right commits at once; changes behind it are not durable."""

    def part() -> Job[None]:
        new_file(box.store, b"before")
        yield Commit()
        new_file(box.store, b"after")

    await driver.run(appending(part()))
    store = box.crash()
    assert store.namespace.lookup(ROOT, b"before")
    with pytest.raises(NotFound):
        store.namespace.lookup(ROOT, b"after")


# -- cancellation


@every_right
async def test_a_job_with_a_right_is_cancelled_at_its_next_step(
    driver: Driver, log: Log, right: Right
) -> None:
    """The call under way ends; then both jobs clean up, the inner one first, and free the right."""
    call = Held(lambda: None)
    scope = trio.CancelScope()

    def outer() -> Job[None]:
        try:
            yield from HOLDS[right](log.job("inner", Work(call), Pause()))
        except trio.Cancelled:
            log.events.append("outer gets Cancelled")
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_until_cancelled, driver, outer(), scope)
        await call.reached.wait()
        nursery.start_soon(driver.run, exclusive(log.job("next", Pause())))
        scope.cancel()
        await wait_all_tasks_blocked()
        assert log.events == ["inner waits", "inner begins", "next waits"]
        call.let_go()
    assert scope.cancelled_caught
    events = [event for event in log.events[3:] if not event.startswith("next")]
    assert events == ["inner gets Cancelled", "inner ends", "outer gets Cancelled"]
    assert log.events.index("inner ends") < log.events.index("next begins")


async def test_a_job_may_not_outlive_its_cancellation(driver: Driver) -> None:
    """A job that handles `Cancelled` and goes on is cancelled at each further step."""
    done: list[str] = []

    def job() -> Job[str]:
        for name in ("first", "second", "third"):
            try:
                yield Work(partial(done.append, name))
            except trio.Cancelled:
                done.append(f"cancelled before {name}")
        return "end"

    with trio.CancelScope() as scope:
        scope.cancel()
        # The job's own end is no step: its result is there.
        assert await driver.run(job()) == "end"
    assert done == [f"cancelled before {name}" for name in ("first", "second", "third")]


async def test_other_jobs_are_not_cancelled(driver: Driver, log: Log) -> None:
    """A job beside the one that is cancelled runs to its end."""
    call = Held(lambda: None)
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            run_until_cancelled, driver, log.job("cancelled", Work(call), Pause()), scope
        )
        await call.reached.wait()
        nursery.start_soon(driver.run, log.job("other", Pause(), Work(lambda: None), Commit()))
        scope.cancel()
        call.let_go()
    assert "cancelled gets Cancelled" in log.events
    assert log.events.count("other ends") == 1
    assert "other gets Cancelled" not in log.events
    await driver.run(exclusive(pausing([None])))


# -- calls


async def test_calls_take_turns_on_the_workers(
    driver: Driver, workers: trio.CapacityLimiter
) -> None:
    """No more calls run at a time than there are workers, those of jobs and others together."""
    call, done = Held(lambda: None), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.call, call)
        await call.reached.wait()
        nursery.start_soon(driver.run, log_call(done))
        await wait_all_tasks_blocked()
        assert (workers.borrowed_tokens, done) == (1, [])
        call.let_go()
    assert done == ["called"]


def log_call(done: list[str]) -> Job[None]:
    yield Work(partial(done.append, "called"))


async def test_a_call_returns_its_result_or_raises(driver: Driver) -> None:
    """A call without a job has the same threads; its exception reaches the caller."""
    assert await driver.call(lambda: 5) == 5
    with pytest.raises(StoreFull):
        await driver.call(Failing(lambda: 5, StoreFull("full")))
