"""The two drivers of jobs, on the calling thread and on an event loop, keep one contract."""

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, Protocol, TypeVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from modelfs.errors import NotFound, StoreFull
from modelfs.fs.background.drive import Driver
from modelfs.jobs.check.fsck import check
from modelfs.jobs.drive import COMMIT_SECONDS, run, run_and_commit
from modelfs.jobs.steps import (
    Commit,
    Job,
    Pause,
    Step,
    Work,
    appending,
    exclusive,
    pausing,
    unless_pinned,
)
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.run_jobs import collect
from tests.support.served_store import Counting, Failing, Held, cancelled_at
from tests.support.stores import CHUNK, Box, content_of, new_file, noise, pack_path, stored_file

T = TypeVar("T")

MOST_CHECKPOINTS: Final = 100


class Hold(Protocol):
    """Gives a job a right on packs."""

    def __call__(self, job: Job[T], /) -> Job[T | None]: ...


class Drive(Protocol):
    """Runs a job to its end."""

    async def __call__(self, job: Job[T]) -> T: ...


@pytest.fixture(params=["here and now", "on an event loop"])
def drive(request: pytest.FixtureRequest, opened: Store, driver: Driver) -> Drive:
    """Both drivers, one after the other."""

    async def here(job: Job[T]) -> T:
        return run(job, opened)

    return here if request.param == "here and now" else driver.run


@pytest.fixture
def commits(opened: Store, monkeypatch: pytest.MonkeyPatch) -> Counting[..., None]:
    """The commits that reach the disk."""
    counting = Counting(opened.index.rows.write)
    monkeypatch.setattr(opened.index.rows, "write", counting)
    return counting


def set_changes_max(patch: pytest.MonkeyPatch, most: int) -> None:
    """Let pauses commit when more than so many changes wait."""
    for module in ("modelfs.jobs.drive", "modelfs.fs.background.durability"):
        patch.setattr(f"{module}.CHANGES_MAX", most)


def failing(error: BaseException) -> Work:
    """Return a step whose call raises."""
    return Work(Failing(lambda: None, error))


# -- results and errors


async def test_a_call_is_answered(drive: Drive) -> None:
    """A step's value is its call's result, and the driver returns the job's."""

    def job() -> Job[list[object]]:
        first: int = yield Work(lambda: 1)
        others = [(yield Pause()), (yield Commit())]
        second: int = yield Work(lambda: first + 1)
        return [first, *others, second]

    assert await drive(job()) == [1, None, None, 2]


async def test_a_job_may_be_without_a_step(drive: Drive) -> None:
    """A job without steps returns its result at once."""

    def job() -> Job[str]:
        yield from ()
        return "done"

    assert await drive(job()) == "done"


@pytest.mark.parametrize("error", [OSError("broken"), KeyboardInterrupt()], ids=repr)
async def test_a_call_that_fails_raises_in_the_job(drive: Drive, error: BaseException) -> None:
    """A job may handle the exception of a call, and go on to other steps."""

    def job() -> Job[tuple[BaseException | None, str]]:
        caught = None
        try:
            yield failing(error)
        except (OSError, KeyboardInterrupt) as exc:
            caught = exc
        return caught, (yield Work(lambda: "went on"))

    caught, value = await drive(job())
    assert caught is error
    assert value == "went on"


@pytest.mark.parametrize("error", [OSError("broken"), KeyboardInterrupt()], ids=repr)
async def test_an_unhandled_error_reaches_the_caller(drive: Drive, error: BaseException) -> None:
    """The caller gets the call's own exception after the job has cleaned up."""
    cleanup: list[str] = []

    def job() -> Job[None]:
        try:
            yield failing(error)
        finally:
            cleanup.append("at once")
            yield Work(partial(cleanup.append, "in a step"))

    with pytest.raises(type(error)) as caught:
        await drive(job())
    assert caught.value is error
    assert cleanup == ["at once", "in a step"]


async def test_an_error_between_steps_reaches_the_caller(drive: Drive) -> None:
    """The caller gets an exception that the job raises between two steps, too."""

    def job() -> Job[None]:
        yield Pause()
        raise StoreFull("full")

    with pytest.raises(StoreFull):
        await drive(job())


# -- rights on packs

RIGHTS: Final = (appending, exclusive, unless_pinned)


@pytest.mark.parametrize("hold", RIGHTS)
async def test_a_job_runs_with_its_right(drive: Drive, hold: Hold) -> None:
    """The steps of a job with a right are executed, and its result reaches the job around it."""

    def part(number: int) -> Job[int]:
        yield Pause()
        result: int = yield Work(lambda: number + 1)
        return result

    def job() -> Job[list[int | None]]:
        return [(yield from hold(part(1))), (yield from hold(part(2)))]

    assert await drive(job()) == [2, 3]


@pytest.mark.parametrize("hold", RIGHTS)
async def test_an_error_of_a_job_with_a_right_is_raised_around_it(drive: Drive, hold: Hold) -> None:
    """The job around may handle the exception, and the right is free again."""

    def part() -> Job[None]:
        yield failing(OSError("broken"))

    def job() -> Job[str]:
        with pytest.raises(OSError, match="broken"):
            yield from hold(part())
        yield from hold(pausing([None]))
        return "went on"

    assert await drive(job()) == "went on"


@pytest.mark.parametrize("hold", RIGHTS)
async def test_a_job_with_a_right_gets_no_second_one(drive: Drive, hold: Hold) -> None:
    """A job that asks for a right inside another fails under both drivers, and blocks none."""

    def part() -> Job[None]:
        yield from hold(pausing([None]))

    with pytest.raises((AssertionError, RuntimeError)):
        await drive(hold(part()))
    await drive(hold(pausing([None])))


# -- commits


async def test_a_commit_step_makes_earlier_changes_durable(
    drive: Drive, box: Box, commits: Counting[..., None]
) -> None:
    """A crash after a commit step loses only the changes made after it."""
    store = box.store

    def job() -> Job[None]:
        new_file(store, b"before")
        yield Commit()
        assert len(commits.calls) == 1
        assert not store.index.dirty
        new_file(store, b"after")

    await drive(job())
    store = box.crash()
    assert store.namespace.lookup(ROOT, b"before")
    with pytest.raises(NotFound):
        store.namespace.lookup(ROOT, b"after")


async def test_a_pause_commits_when_many_changes_wait(
    drive: Drive, opened: Store, monkeypatch: pytest.MonkeyPatch, commits: Counting[..., None]
) -> None:
    """A pause commits if more than `CHANGES_MAX` changes are in memory, and only then."""
    new_file(opened, b"first")
    set_changes_max(monkeypatch, opened.index.changes)

    def job() -> Job[list[int]]:
        yield Pause()
        counts = [len(commits.calls)]
        new_file(opened, b"second")
        for _ in range(2):
            yield Pause()
            counts.append(len(commits.calls))
        return counts

    assert await drive(job()) == [0, 1, 1]
    assert not opened.index.dirty


@pytest.mark.parametrize("step", [Commit(), Pause()], ids=repr)
async def test_a_commit_that_fails_raises_in_the_job(
    drive: Drive, opened: Store, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    """A job may handle a failed commit; its changes are part of the next one."""
    set_changes_max(monkeypatch, 0)
    opened.space.close()  # with a ballast the commit would be repeated
    monkeypatch.setattr(
        opened.index.rows, "write", Failing(opened.index.rows.write, StoreFull("full"))
    )

    def job() -> Job[bool]:
        new_file(opened, b"new")
        with pytest.raises(StoreFull):
            yield step
        was_dirty = opened.index.dirty
        yield Commit()
        return was_dirty

    assert await drive(job())
    assert not opened.index.dirty


def test_a_pause_commits_old_changes(
    opened: Store, monkeypatch: pytest.MonkeyPatch, commits: Counting[..., None]
) -> None:
    """On the calling thread, a pause commits if the last commit was `COMMIT_SECONDS` ago."""
    now = 0.0
    monkeypatch.setattr("modelfs.jobs.drive.time", SimpleNamespace(monotonic=lambda: now))
    steps: list[tuple[float, Step, int]] = [
        (0, Pause(), 0),
        (COMMIT_SECONDS, Pause(), 0),
        (1, Pause(), 1),
        (0, Pause(), 1),
        (COMMIT_SECONDS - 1, Commit(), 2),
        (2, Pause(), 2),
        (COMMIT_SECONDS - 1, Pause(), 3),
    ]

    def job() -> Job[None]:
        nonlocal now
        for number, (seconds, step, count) in enumerate(steps):
            now += seconds
            new_file(opened, b"%d" % number)
            yield step
            assert len(commits.calls) == count, number

    run(job(), opened)


@pytest.mark.parametrize("error", [None, OSError("broken"), KeyboardInterrupt()], ids=repr)
def test_run_and_commit_always_commits(box: Box, error: BaseException | None) -> None:
    """`run_and_commit` commits a job's changes, whether it returns or raises."""

    def job() -> Job[str]:
        new_file(box.store, b"new")
        yield Pause() if error is None else failing(error)
        return "done"

    if error is None:
        assert run_and_commit(job(), box.store) == "done"
    else:
        with pytest.raises(type(error)):
            run_and_commit(job(), box.store)
    assert box.crash().namespace.lookup(ROOT, b"new")


# -- Ctrl-C


def test_an_interrupt_is_raised_after_the_change(box: Box) -> None:
    """Ctrl-C in the middle of a change is raised at the next step, and the change is committed."""

    def job() -> Job[None]:
        with box.store.index.change():
            new_file(box.store, b"first")
            signal.raise_signal(signal.SIGINT)
            new_file(box.store, b"second")
        with pytest.raises(KeyboardInterrupt):
            yield Pause()
        yield Pause()  # it is raised once
        new_file(box.store, b"third")
        signal.raise_signal(signal.SIGINT)
        yield Commit()

    with pytest.raises(KeyboardInterrupt):
        run_and_commit(job(), box.store)
    store = box.crash()
    assert all(store.namespace.lookup(ROOT, name) for name in (b"first", b"second", b"third"))


def test_an_interrupt_ends_a_call_at_once(opened: Store) -> None:
    """Ctrl-C is raised inside a slow call, and before a call that follows a change."""
    calls: list[str] = []

    def call() -> None:
        calls.append("begun")
        signal.raise_signal(signal.SIGINT)
        calls.append("went on")

    def job() -> Job[None]:
        with pytest.raises(KeyboardInterrupt):
            yield Work(call)
        with opened.index.change():
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            yield Work(partial(calls.append, "another"))
        yield Work(partial(calls.append, "clean-up"))

    run(job(), opened)
    assert calls == ["begun", "clean-up"]


def test_an_interrupt_after_the_last_step_is_raised_at_the_end(box: Box) -> None:
    """Ctrl-C that no step has raised is raised after the commit; then its handler is the old."""
    before = signal.getsignal(signal.SIGINT)

    def job() -> Job[None]:
        yield Pause()
        new_file(box.store, b"new")
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_and_commit(job(), box.store)
    assert signal.getsignal(signal.SIGINT) is before
    assert box.crash().namespace.lookup(ROOT, b"new")


def test_a_thread_may_run_a_job(opened: Store) -> None:
    """On another thread than the main one a job runs, too; signals do not reach it."""

    def job() -> Job[str]:
        yield Pause()
        return "done"

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run, job(), opened).result() == "done"


# -- a writer of chunks


def put_noise(writer: ChunkWriter, seed: int) -> WriteResult:
    """Append three chunks, durably."""
    for number in range(3):
        writer.put(noise(CHUNK, 3 * seed + number), compress=False)
    return writer.finish()


async def test_a_writer_whose_call_fails_is_rolled_back(drive: Drive, opened: Store) -> None:
    """Packs end where they did before, and files stored later read as they were written."""
    inodes = [stored_file(opened, b"before", noise(CHUNK, 1))]
    path = pack_path(opened.packs, 1)
    size = path.stat().st_size

    def call(writer: ChunkWriter) -> None:
        put_noise(writer, 100)
        assert path.stat().st_size > size
        raise OSError("broken")

    def job() -> Job[None]:
        with opened.writing() as writer:
            yield Work(partial(call, writer))

    with pytest.raises(OSError, match="broken"):
        await drive(job())
    assert path.stat().st_size == size
    inodes.append(stored_file(opened, b"after", noise(CHUNK, 2)))
    assert [content_of(opened, inode) for inode in inodes] == [noise(CHUNK, 1), noise(CHUNK, 2)]


# -- threads


def where(call: Callable[[], Any]) -> Job[tuple[int, int]]:
    """Return the threads that the job and its call run on."""

    def called() -> int:
        call()
        return threading.get_ident()

    thread: int = yield Work(called)
    return threading.get_ident(), thread


def test_without_an_event_loop_calls_run_on_the_same_thread(opened: Store) -> None:
    """`run` executes a job and its calls on the calling thread."""
    here = threading.get_ident()
    assert run(where(lambda: None), opened) == (here, here)


async def test_on_an_event_loop_calls_run_on_workers(
    driver: Driver, workers: trio.CapacityLimiter
) -> None:
    """A call runs on a worker thread, and the job itself on the event loop's."""
    call = Held(lambda: None)
    threads: list[tuple[int, int]] = []

    async def drive() -> None:
        threads.append(await driver.run(where(call)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drive)
        await call.reached.wait()
        assert workers.borrowed_tokens == 1
        call.let_go()
    ((job, called),) = threads
    assert job == threading.get_ident() != called


async def test_others_run_at_a_pause(driver: Driver) -> None:
    """Other tasks run at each pause of a job."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    def job() -> Job[list[int]]:
        counts: list[int] = []
        for _ in range(10):
            yield Pause()
            counts.append(turns)
        return counts

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        counts = await driver.run(job())
        nursery.cancel_scope.cancel()
    # Of two tasks that alternate, either may run first.
    assert all(before < after for before, after in zip(counts, counts[2:], strict=False))


# -- cancellation


@pytest.mark.parametrize(
    "step", [Work(lambda: None), Pause(), Commit()], ids=["work", "pause", "commit"]
)
async def test_a_job_that_is_cancelled_in_a_call_ends_at_the_next_step(
    driver: Driver, step: Step
) -> None:
    """The job gets the result of the call under way, is cancelled at the next step, cleans up."""
    call = Held(lambda: "value")
    scope = trio.CancelScope()
    events: list[str] = []

    def job() -> Job[None]:
        try:
            events.append((yield Work(call)))
            yield step
            events.append("went on")
        except trio.Cancelled:
            events.append("cancelled")
            raise
        finally:
            events.append("cleaned up")

    async def drive() -> None:
        with scope:
            await driver.run(job())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drive)
        await call.reached.wait()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert events == []
        call.let_go()
    assert events == ["value", "cancelled", "cleaned up"]
    assert scope.cancelled_caught


async def test_a_job_that_is_cancelled_makes_no_more_calls(driver: Driver) -> None:
    """Steps in the cleanup of a cancelled job are cancelled, too."""
    calls: list[str] = []

    def job() -> Job[None]:
        try:
            yield Work(partial(calls.append, "first"))
        finally:
            yield Work(partial(calls.append, "second"))

    with trio.CancelScope() as scope:
        scope.cancel()
        await driver.run(job())
    assert scope.cancelled_caught
    assert calls == []


async def test_cancelled_anywhere_a_job_leaves_a_sound_store(
    driver: Driver, opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job cancelled at any step leaves its writer rolled back or published."""
    monkeypatch.setattr("modelfs.store.chunks.publish.SLICE", 1)

    def job(seed: int) -> Job[None]:
        with opened.writing() as writer:
            result = yield Work(partial(put_noise, writer, seed))
        yield from pausing(opened.publish(result))
        yield Commit()

    for number in range(MOST_CHECKPOINTS):
        with cancelled_at(number) as scope:
            await driver.run(job(number))
        assert check(opened, data=True) == []
        if not scope.cancel_called:
            break
    assert 4 < number < MOST_CHECKPOINTS - 1
    inode = stored_file(opened, b"after", noise(CHUNK, 1000))
    collect(opened)
    assert content_of(opened, inode) == noise(CHUNK, 1000)
