"""An event that happens again and again."""

import trio
from trio.testing import wait_all_tasks_blocked

from modelfs.fs.changed import Changed


async def test_a_change_wakes_all_who_wait_and_none_who_come_later(nursery: trio.Nursery) -> None:
    """Each change wakes the tasks that wait at that moment, once."""
    changed, woken = Changed(), list[str]()

    async def wait(name: str) -> None:
        await changed.wait()
        woken.append(name)

    changed.notify()  # without a waiter
    for name in ("a", "b"):
        nursery.start_soon(wait, name)
    await wait_all_tasks_blocked()
    assert woken == []
    changed.notify()
    nursery.start_soon(wait, "later")
    await wait_all_tasks_blocked()
    assert sorted(woken) == ["a", "b"]
    changed.notify()
    await wait_all_tasks_blocked()
    assert sorted(woken) == ["a", "b", "later"]


async def test_next_misses_no_change() -> None:
    """A change after `next`, while the task does something else, ends its wait at once."""
    changed = Changed()
    change = changed.next()
    assert not change.is_set()
    changed.notify()
    with trio.fail_after(1):
        await change.wait()
    assert not changed.next().is_set()


async def test_a_task_that_is_woken_finds_the_condition_true(nursery: trio.Nursery) -> None:
    """The loop of the docstring ends, whatever changes come before that of the condition."""
    changed, condition, ended = Changed(), list[int](), list[bool]()

    async def until_three() -> None:
        while len(condition) < 3:
            await changed.wait()
        ended.append(True)

    nursery.start_soon(until_three)
    for number in range(3):
        await wait_all_tasks_blocked()
        assert ended == []
        condition.append(number)
        changed.notify()
    await wait_all_tasks_blocked()
    assert ended == [True]
